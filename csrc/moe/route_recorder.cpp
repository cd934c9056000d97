#include "moe/route_recorder.h"

#include "predict/stacked_gates.h"
#include "predict/trained_gates.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

namespace hobbit {

GateNeeds RouteRecorder::more(GateNeeds needs, Gates gates) const {
    if (is_on_ && (is_trained_ || gates == Gates::routers)) {
        needs.n_layers = std::max(needs.n_layers, RouteLog::max_distance);
        needs.own      = needs.own || gates == Gates::trained;
    }
    return needs;
}

void RouteRecorder::read_weights(const LayerView & view) {
    if (!is_on_) {
        return;
    }
    weights_.assign(static_cast<size_t>(view.n_used()) * view.n_tokens(), 0.0f);
    if (view.weights != nullptr) {
        ggml_backend_tensor_get(view.weights, weights_.data(), 0, weights_.size() * sizeof(float));
    }
}

Status RouteRecorder::on_layer(const LayerView & view, const std::vector<int32_t> & ids, BothGates & gates,
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
    const GateLogits & by_routers = gates.routers.read(view.layer_idx, reads);
    const GateLogits & by_trained = gates.trained.read(view.layer_idx, reads);
    for (uint32_t token = 0; token < view.n_tokens(); ++token) {
        add_predictions(view, by_routers, token, {log.predicted_idxs, log.predicted_weights});
        if (is_trained_) {
            add_predictions(view, by_trained, token, {log.trained_idxs, log.trained_weights});
            add_chances(view, by_trained, token);
        }
    }
    return {};
}

void RouteRecorder::add_chances(const LayerView & view, const GateLogits & gates, uint32_t token) {
    RouteLog &                    log      = *view.model->route_log;
    const std::vector<uint32_t> & n_expert = view.model->predictor_model.n_expert;
    const uint32_t                n        = n_expert[view.layer_idx];
    log.max_expert                         = *std::max_element(n_expert.begin(), n_expert.end());
    const size_t end                       = log.next_chances.size() + log.max_expert;
    if (gates.own != nullptr && gates.n_tokens == view.n_tokens()) {
        const float * row = gates.own + static_cast<size_t>(token) * n;
        std::transform(row, row + n, std::back_inserter(log.next_chances), as_chance);
    }
    log.next_chances.resize(end, std::numeric_limits<float>::quiet_NaN());
}

void RouteRecorder::add_predictions(const LayerView & view, const GateLogits & gates, uint32_t token, Predictions to) {
    const uint32_t n_used = view.model->route_log->n_used;
    size_t         at     = to.idxs.size();
    to.idxs.resize(at + RouteLog::max_distance * n_used, -1);
    to.weights.resize(to.idxs.size(), 0.0f);
    if (gates.n_tokens != view.n_tokens()) {
        return; // of a larger batch nothing is predicted
    }
    const std::vector<uint32_t> & n_expert = view.model->predictor_model.n_expert;
    for (size_t layer_idx = view.layer_idx + 1u; layer_idx < gates.of_layer.size(); ++layer_idx) {
        const float * logits = gates.of_layer[layer_idx];
        if (logits != nullptr && at < to.idxs.size()) {
            shares_.clear();
            append_softmax(logits + static_cast<size_t>(token) * n_expert[layer_idx], n_expert[layer_idx], shares_);
            add_best(n_used, to, at);
            at += n_used;
        }
    }
}

// In the order of PrefetchPlanner, which of equal shares takes the first.
void RouteRecorder::add_best(uint32_t n_used, Predictions to, size_t at) {
    const auto n = static_cast<std::ptrdiff_t>(std::min<size_t>(n_used, shares_.size()));
    order_.resize(shares_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + n, order_.end(), [this](int32_t a, int32_t b) {
        return shares_[a] > shares_[b] || (shares_[a] == shares_[b] && a < b);
    });
    for (std::ptrdiff_t i = 0; i < n; ++i, ++at) {
        to.idxs[at]    = order_[i];
        to.weights[at] = shares_[order_[i]];
    }
}

} // namespace hobbit
