// Fills a RouteLog. Predictions are those of HOBBIT's stacked gates (arXiv 2411.01433, section 3.3): the logits that
// GatesAhead has of the layers ahead, as the predictor of that name gets them.
#pragma once

#include "moe/gates_ahead.h"
#include "moe/layer_view.h"
#include "moe/route_log.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class RouteRecorder {
  public:
    // A graph of this model begins (nullptr: of none). It is recorded if the model keeps a log.
    void begin_graph(const ModelExperts * model) { is_on_ = model != nullptr && model->route_log != nullptr; }

    // How many layers ahead gates should be given for; 0: they are not used.
    uint32_t n_gate_layers() const { return is_on_ ? RouteLog::max_distance : 0; }

    // Keeps the layer's gate weights: to be called before anything is skipped, since that makes them zero. REQUIRES:
    // the run with its router was computed.
    void read_weights(const LayerView & view);

    // The layer selected ids [n_tokens][n_used], and those after it might select what `gates` say. REQUIRES:
    // read_weights() was called for it.
    Status on_layer(const LayerView & view, const std::vector<int32_t> & ids, GatesAhead & gates,
                    const DeviceReads & reads);

  private:
    void add_predictions(const LayerView & view, const GateLogits & gates, uint32_t token);
    void add_best(RouteLog & log, size_t at); // of shares_

    bool                 is_on_ = false;
    std::vector<float>   weights_; // of a batch
    std::vector<float>   shares_;  // of a token's gate weight in a layer ahead, [n_expert]
    std::vector<int32_t> order_;
};

} // namespace hobbit
