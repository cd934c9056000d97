// One layer some of whose experts are still being read, on a device that multiplies by what the loader holds: rows
// whose expert is here are computed while the drive works on the others, and those as they come.
//
// Of a few tokens the late ones have nodes of their own (LateExperts). Else nodes are completed one after the other.
#pragma once

#include "moe/expert_matmul.h"
#include "moe/inner_graph.h"
#include "moe/late_experts.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "moe/loaded_weights.h"

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace hobbit {

class ArrivingLayer {
  public:
    // `compute` computes what is in `inner`, and waits for it. Both are borrowed. `on_cpu`: the inner device is a CPU,
    // which may compute with any memory.
    ArrivingLayer(InnerGraph & inner, ExpertMatmul & matmul, bool on_cpu, std::function<Status()> compute)
        : inner_(inner), matmul_(matmul), on_cpu_(on_cpu), compute_(std::move(compute)) {}

    // Begins a pass through the layers.
    void     begin_pass() { stall_us_ = 0; }
    uint64_t stall_us() const { return stall_us_; } // that the pass waited for the drive

    // Adds the layer's nodes, up to `view.end_idx`; the last ones may be left to the next run. Borrows all until then.
    // REQUIRES: step.load_all(); what was added before was computed.
    Status run(ggml_cgraph * graph, int first_idx, const LayerView & view, LayerStep & step,
               const LoadedWeights & weights);

  private:
    // An expert node some of whose rows still wait for their expert.
    struct Pending {
        const ExpertNode *    node = nullptr;
        std::vector<uint32_t> lease_idxs;
    };

    Status                          complete_late();
    Status                          add_ready_rows(const ExpertNode & node);
    Status                          release_streamed(const ExpertNode & node, const std::vector<uint32_t> & lease_idxs);
    Status                          complete(Pending & pending);
    Status                          complete_all();
    template <typename Wait> Status wait(const Wait & wait_for);
    bool                            reads_pending(const ggml_tensor * expert_node) const;

    InnerGraph &            inner_;
    ExpertMatmul &          matmul_;
    const bool              on_cpu_;
    std::function<Status()> compute_;
    uint64_t                stall_us_ = 0;

    const LayerView *     view_    = nullptr;
    LayerStep *           step_    = nullptr;
    const LoadedWeights * weights_ = nullptr;

    LateExperts            late_;
    std::vector<Pending>   pending_;
    std::vector<uint32_t>  ready_;
    std::vector<uint32_t>  arrived_;
    std::vector<LeasePart> arrived_parts_;
};

} // namespace hobbit
