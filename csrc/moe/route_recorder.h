// Fills a RouteLog. Predictions are those of HOBBIT's stacked gates (arXiv 2411.01433, section 3.3): the routers of the
// next layers, applied to this layer's router input.
#pragma once

#include "moe/inner_graph.h"
#include "moe/layer_view.h"
#include "moe/route_log.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class RouteRecorder {
  public:
    explicit RouteRecorder(ggml_backend_t backend) : scratch_(backend) {}

    // Looks up the routers of a graph whose model keeps a log; of others it records nothing.
    void begin_graph(ggml_cgraph * graph, IsExpertBuffer is_expert_buffer);

    // To be called with every ordinary node that was just added to `inner`: after a router it adds one product of the
    // same input for each layer predicted.
    void on_node(InnerGraph & inner, const ggml_tensor * node);

    // Keeps the layer's gate weights: to be called before anything is skipped, since that makes them zero. REQUIRES:
    // the run with its router was computed.
    void read_weights(const LayerView & view);

    // The layer selected ids [n_tokens][n_used]. REQUIRES: read_weights() was called for it.
    Status on_layer(const LayerView & view, const std::vector<int32_t> & ids);

  private:
    struct Router {
        const ggml_tensor * logits    = nullptr; // MUL_MAT(weights [n_embd, n_expert], input [n_embd, n_tokens])
        int                 layer_idx = 0;
    };

    void add_predictions(RouteLog & log, int64_t token);

    bool                     is_on_ = false;
    DeviceScratch            scratch_;
    std::vector<Router>      routers_; // in graph order
    size_t                   next_router_  = 0;
    int                      source_layer_ = -1; // whose router input the predictions were made from
    std::vector<ggml_tensor> predictions_;       // [distance - 1], F32 [n_expert, n_tokens]
    std::vector<float>       logits_;            // of one token
    std::vector<float>       weights_;           // of a batch
    std::vector<int32_t>     order_;
};

} // namespace hobbit
