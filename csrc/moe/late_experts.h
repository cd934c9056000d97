// The experts of a layer that are still being read when a few tokens want them.
//
// Those that are there go through all of the layer's nodes while the drive works; a late one follows matrix by matrix
// as they come, through twins of the nodes over memory of their own. In llama.cpp's memory it could not: the allocator
// gives away what, in the order of the graph, nobody needs any more, so one expert's rows would overwrite what
// another's are still to be computed from. Only the rows of the last node are written where they belong.
#pragma once

#include "moe/expert_matmul.h"
#include "moe/loaded_weights.h"

#include <cstdint>
#include <deque>
#include <vector>

namespace hobbit {

class LateExperts {
  public:
    LateExperts();

    // Divides the step's experts into ready() and late ones, and keeps what the late ones read. Borrows all until the
    // next call. False: the layer cannot be computed so: there are many tokens, or something between its expert nodes
    // does not treat every row by itself, or is read by others. REQUIRES: all is in the host's memory; what the layer
    // reads was computed, none of its nodes was.
    bool begin(ggml_cgraph * graph, int first_idx, const LayerView & view, LayerStep & step,
               const LoadedWeights & weights);

    // Experts (indices of the step's keys) whose matrices are all there; the caller computes these.
    const std::vector<uint32_t> & ready() const { return ready_; }

    // To be called behind ready()'s rows of an expert node: the nodes up to the next one compute all rows, and of late
    // experts those would be what the memory held before.
    Status add_blank_rows(InnerGraph & graph, const ExpertNode & node);

    // Matrices of late experts that did not come yet.
    std::vector<LeasePart> & wanted() { return wanted_; }

    // Adds all that can be computed once `arrived` have come, which becomes what is not needed after that run.
    Status add(InnerGraph & graph, ExpertMatmul & matmul, std::vector<LeasePart> & arrived);

  private:
    // Memory in place of that of a tensor, and of views on it.
    struct Twin {
        const ggml_tensor *    original = nullptr;
        std::vector<std::byte> data;
    };
    // A node of the layer that computes something.
    struct Link {
        ggml_tensor * original = nullptr;
        ggml_tensor   node{}; // over twins
        ggml_tensor   input{};
        ExpertNode    expert; // of `node`, if the original is an expert node
        // Else what it reads, [GGML_MAX_SRC], over twins.
        std::vector<ggml_tensor> sources;
        std::vector<uint32_t>    needs;   // links that make what it reads
        std::vector<bool>        is_done; // [key]

        bool is_expert() const { return expert.node != nullptr; }
    };

    bool        make_links(ggml_cgraph * graph, int first_idx);
    bool        add_link(ggml_tensor * node, const ExpertNode * expert);
    bool        is_read_elsewhere(ggml_cgraph * graph, int first_idx) const;
    bool        is_of_expert(const ggml_tensor * node, const ggml_tensor * source) const;
    int         link_of(const ggml_tensor * tensor) const;
    void        make_twins();
    Twin &      twin_of(const ggml_tensor * tensor);
    ggml_tensor over_twin(const ggml_tensor & tensor);
    bool        can_add(const Link & link, uint32_t key_idx) const;
    Status      add_rows(InnerGraph & graph, const Link & link, uint32_t key_idx) const;

    GgmlBufferPtr         buffer_; // stands for the twins: kernels look at the buffer's type only
    const LayerView *     view_    = nullptr;
    LayerStep *           step_    = nullptr;
    const LoadedWeights * weights_ = nullptr;

    std::deque<Twin> twins_; // kept for their memory; addresses stay
    size_t           n_twins_ = 0;
    std::deque<Link> links_; // in graph order; addresses stay

    std::vector<int32_t>           late_rows_;
    std::vector<float>             zeros_; // a node's late rows
    std::vector<uint32_t>          ready_;
    std::vector<uint32_t>          late_;
    std::vector<LeasePart>         wanted_;
    std::vector<std::vector<bool>> has_come_; // [key][part]
    std::vector<uint32_t>          now_;
};

} // namespace hobbit
