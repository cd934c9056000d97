#include "moe/route_recorder.h"

#include "predict/stacked_gates.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace hobbit {

void RouteRecorder::read_weights(const LayerView & view) {
    if (!is_on_) {
        return;
    }
    weights_.assign(static_cast<size_t>(view.n_used()) * view.n_tokens(), 0.0f);
    if (view.weights != nullptr) {
        ggml_backend_tensor_get(view.weights, weights_.data(), 0, weights_.size() * sizeof(float));
    }
}

Status RouteRecorder::on_layer(const LayerView & view, const std::vector<int32_t> & ids, GatesAhead & gates,
                               const DeviceReads & reads) {
    if (!is_on_) {
        return {};
    }
    RouteLog & log = *view.model->route_log;
    if (log.n_rows() == 0) {
        log.n_used = view.n_used();
    }
    if (log.n_used != view.n_used()) {
        return Status::error("layer " + std::to_string(view.layer_idx) + " selects " + std::to_string(view.n_used()) +
                             " experts and an earlier one " + std::to_string(log.n_used) +
                             ": such a model cannot be traced");
    }
    log.layer_idxs.insert(log.layer_idxs.end(), view.n_tokens(), view.layer_idx);
    log.expert_idxs.insert(log.expert_idxs.end(), ids.begin(), ids.end());
    log.weights.insert(log.weights.end(), weights_.begin(), weights_.end());
    const GateLogits & logits = gates.read(view.layer_idx, reads);
    for (uint32_t token = 0; token < view.n_tokens(); ++token) {
        add_predictions(view, logits, token);
    }
    return {};
}

void RouteRecorder::add_predictions(const LayerView & view, const GateLogits & gates, uint32_t token) {
    RouteLog & log = *view.model->route_log;
    size_t     at  = log.predicted_idxs.size();
    log.predicted_idxs.resize(at + RouteLog::max_distance * log.n_used, -1);
    log.predicted_weights.resize(log.predicted_idxs.size(), 0.0f);
    if (gates.n_tokens != view.n_tokens()) {
        return; // of a larger batch nothing is predicted
    }
    const std::vector<uint32_t> & n_expert = view.model->predictor_model.n_expert;
    for (size_t layer_idx = view.layer_idx + 1u; layer_idx < gates.of_layer.size(); ++layer_idx) {
        const float * logits = gates.of_layer[layer_idx];
        if (logits != nullptr && at < log.predicted_idxs.size()) {
            shares_.clear();
            append_softmax(logits + static_cast<size_t>(token) * n_expert[layer_idx], n_expert[layer_idx], shares_);
            add_best(log, at);
            at += log.n_used;
        }
    }
}

// In the order of PrefetchPlanner, which of equal shares takes the first.
void RouteRecorder::add_best(RouteLog & log, size_t at) {
    const auto n = static_cast<std::ptrdiff_t>(std::min<size_t>(log.n_used, shares_.size()));
    order_.resize(shares_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + n, order_.end(), [this](int32_t a, int32_t b) {
        return shares_[a] > shares_[b] || (shares_[a] == shares_[b] && a < b);
    });
    for (std::ptrdiff_t i = 0; i < n; ++i, ++at) {
        log.predicted_idxs[at]    = order_[i];
        log.predicted_weights[at] = shares_[order_[i]];
    }
}

} // namespace hobbit
