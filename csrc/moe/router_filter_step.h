// Applies a router filter in llama.cpp's graph: between the sorting of a router's scores and what reads the selection,
// which are both the experts' products and the gathering of their weights.
#pragma once

#include "base/status.h"
#include "moe/layer_view.h"
#include "policy/router_filter.h"

#include <memory>
#include <vector>

namespace hobbit {

class RouterFilterStep {
  public:
    // Larger batches need most experts anyway: they are left as they are.
    static constexpr int64_t max_tokens = 8;

    // For the graph that is coming; nullptr: no filter, or a model without a loader.
    void begin_graph(ModelExperts * model);

    // Whether the node sorts a router's scores, so that the run has to be computed up to it.
    bool is_selection(const ggml_tensor * node) const;

    // Rewrites the selection in the sorted ids. REQUIRES: the run with `node` was computed.
    Status apply(ggml_cgraph * graph, int node_idx);

    // What the router chose for a layer before it was rewritten, [n_tokens][n_used]; nullptr: it was not looked at.
    const std::vector<int32_t> * own_choice(const LayerView & view) const {
        return sorted_ != nullptr && view.ids->view_src == sorted_ ? &own_choice_ : nullptr;
    }

    // An error that names the architecture if this layer's selection is of a kind that apply() never saw.
    Status check(const LayerView & view) const;

  private:
    ModelExperts *                model_    = nullptr;
    uint64_t                      version_  = 0;
    const ModelExperts *          made_for_ = nullptr;
    std::unique_ptr<RouterFilter> filter_;
    const ggml_tensor *           sorted_ = nullptr; // the ids rewritten last
    std::vector<float>            scores_;
    std::vector<int32_t>          order_;
    std::vector<int32_t>          own_choice_;  // [n_tokens][n_used]
    std::vector<int32_t>          expert_idxs_; // 0, 1, ...
    std::vector<Resident>         resident_;
};

} // namespace hobbit
