// Guesses the next layer's experts: its router, applied to this layer's router input. The residual stream changes
// little from layer to layer, so about four in five of the guesses are right (HOBBIT, arXiv 2411.01433, section 3.3).
#pragma once

#include "moe/inner_graph.h"
#include "moe/layer_view.h"
#include "policy/precision.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class RouterPredictor {
  public:
    explicit RouterPredictor(ggml_backend_t backend) : scratch_(backend) {}

    // Looks up the routers of a graph of few tokens.
    void begin_graph(ggml_cgraph * graph);

    // To be called with every ordinary node that was just added to `inner`: after a router it adds one more product,
    // of the same input with the next router's weights.
    void on_node(InnerGraph & inner, const ggml_tensor * node);

    // What the layer after `view`'s will probably want and has not got, best first. REQUIRES: the run with the router
    // of `view` was computed. Empty if there is no next layer or nothing was predicted.
    const std::vector<ExpertKey> & predict(const LayerView & view);

  private:
    struct Router {
        const ggml_tensor * logits    = nullptr; // MUL_MAT(weights [n_embd, n_expert], input [n_embd, n_tokens])
        int                 layer_idx = 0;
    };

    void choose(const LayerView & view, const float * logits);

    DeviceScratch          scratch_;
    std::vector<Router>    routers_; // in graph order
    size_t                 next_router_ = 0;
    ggml_tensor            prediction_{}; // F32 [n_expert, n_tokens] of layer predicted_layer_
    int                    predicted_layer_ = -1;
    int                    source_layer_    = -1; // whose router input it was made from
    std::vector<float>     logits_;
    std::vector<int32_t>   ids_; // of one token, best first
    std::vector<float>     weights_;
    std::vector<Resident>  resident_;
    std::vector<Choice>    choices_;
    std::vector<ExpertKey> keys_;
};

} // namespace hobbit
