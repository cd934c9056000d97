// Fills a RouteLog. Predictions are those of HOBBIT's stacked gates (arXiv 2411.01433, section 3.3) and of trained
// ones: the logits that GatesAhead has of the layers ahead, as the predictors of these names get them.
#pragma once

#include "moe/both_gates.h"
#include "moe/layer_view.h"
#include "moe/route_log.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class RouteRecorder {
  public:
    // A graph of this model begins (nullptr: of none). It is recorded if the model keeps a log.
    void begin_graph(const ModelExperts * model) {
        is_on_      = model != nullptr && model->route_log != nullptr;
        is_trained_ = is_on_ && model->predictor_shared.trained != nullptr;
    }

    // What such gates should be asked, over what others ask of them.
    GateNeeds more(GateNeeds needs, Gates gates) const;

    // Keeps the layer's gate weights: to be called before anything is skipped, since that makes them zero. REQUIRES:
    // the run with its router was computed.
    void read_weights(const LayerView & view);

    // The layer selected ids [n_tokens][n_used], and those after it might select what the gates say. REQUIRES:
    // read_weights() was called for it.
    Status on_layer(const LayerView & view, const std::vector<int32_t> & ids, BothGates & gates,
                    const DeviceReads & reads);

  private:
    struct Predictions { // of a log, [row][max_distance][n_used]
        std::vector<int32_t> & idxs;
        std::vector<float> &   weights;
    };

    void add_predictions(const LayerView & view, const GateLogits & gates, uint32_t token, Predictions to);
    void add_chances(const LayerView & view, const GateLogits & gates, uint32_t token);
    void add_best(uint32_t n_used, Predictions to, size_t at); // of shares_

    bool                 is_on_      = false;
    bool                 is_trained_ = false;
    std::vector<float>   weights_; // of a batch
    std::vector<float>   shares_;  // of a token's gate weight in a layer ahead, [n_expert]
    std::vector<int32_t> order_;
};

} // namespace hobbit
