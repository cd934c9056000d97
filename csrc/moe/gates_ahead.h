// The routers of the next layers, applied to the input of the router at work, in one product: their weights are copied
// once into one matrix, of which the next p layers are consecutive rows (HOBBIT's stacking computer, arXiv 2411.01433,
// section 3.3). Where every router's input is a normalised residual times a vector of weights, that of the layer at
// work is divided out and that of each target folded into its rows: then the guess differs from the truth by the
// residual's change alone, and one expert in two hundred more is guessed right.
#pragma once

#include "moe/device_reads.h"
#include "moe/inner_graph.h"
#include "predict/prefetch_planner.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class GatesAhead {
  public:
    // Larger batches need most of a layer's experts, whatever is predicted.
    static constexpr int64_t max_tokens = 8;

    explicit GatesAhead(ggml_backend_t backend) : bank_(backend), input_(backend), output_(backend) {}

    // Looks up the routers of a graph, to look `n_layers` ahead; 0: not at all.
    void begin_graph(ggml_cgraph * graph, uint32_t n_layers);

    // To be called with every ordinary node that is added.
    void on_node(const ggml_tensor * node);
    // Adds the product for the router seen last, if it was not added.
    void add_product(InnerGraph & inner);

    // What read() will need of the run.
    void want(DeviceReads & reads) const;
    // What the routers after that of `layer_idx` said. REQUIRES: the run with that router was computed.
    const GateLogits & read(uint16_t layer_idx, const DeviceReads & reads);

  private:
    struct Router {
        const ggml_tensor * logits         = nullptr; // MUL_MAT(weights [n_embd, n_expert], input [n_embd, n_tokens])
        ggml_tensor *       norm           = nullptr; // F32 [n_embd], what its normalised input was multiplied by
        const ggml_tensor * bias           = nullptr; // F32 [n_expert], added to the logits
        const ggml_tensor * selection_bias = nullptr; // ... to the probabilities that select, not to the weights
        bool                is_sigmoid     = false;
        int                 layer_idx      = 0;
    };

    void find_routers(ggml_cgraph * graph);
    bool make_bank();
    void fold_norms(std::vector<char> & bank);
    void read_logits(const Router & router, uint32_t first_row, std::vector<float> & logits);

    DeviceScratch                   bank_;              // the routers' weights, in graph order
    DeviceScratch                   input_;             // of the product, without the norm's weights
    DeviceScratch                   output_;            // of the product
    bool                            is_folded_ = false; // the bank's rows are multiplied by their layers' norm weights
    const void *                    banked_    = nullptr; // the first weights in it
    std::vector<Router>             routers_;             // in graph order
    std::vector<uint32_t>           first_row_;           // [router] in the bank, and the end
    uint32_t                        n_layers_    = 0;
    size_t                          next_router_ = 0;
    bool                            is_due_      = false; // the product of the router before it
    ggml_tensor                     product_{};           // F32 [rows of the layers ahead, n_tokens]
    size_t                          source_  = 0;         // the router whose input it was made from
    uint32_t                        n_ahead_ = 0;         // layers in it
    std::vector<float>              values_;
    std::vector<std::vector<float>> logits_; // [layers ahead]
    GateLogits                      gates_;
};

} // namespace hobbit
