#include "moe/route_recorder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>

namespace hobbit {

namespace {

// llama.cpp names a router's output ffn_moe_logits-<layer>.
int router_layer(const ggml_tensor * node) {
    static constexpr char prefix[] = "ffn_moe_logits-";
    if (node->op != GGML_OP_MUL_MAT || std::strncmp(node->name, prefix, sizeof(prefix) - 1) != 0) {
        return -1;
    }
    return std::atoi(node->name + sizeof(prefix) - 1);
}

const ModelExperts * model_of(ggml_cgraph * graph, IsExpertBuffer is_expert_buffer) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        if (const ExpertTensor * tensor = expert_tensor_of(ggml_graph_node(graph, i), is_expert_buffer)) {
            return tensor->model;
        }
    }
    return nullptr;
}

} // namespace

void RouteRecorder::begin_graph(ggml_cgraph * graph, IsExpertBuffer is_expert_buffer) {
    const ModelExperts * model = model_of(graph, is_expert_buffer);
    is_on_                     = model != nullptr && model->route_log != nullptr;
    routers_.clear();
    next_router_  = 0;
    source_layer_ = -1;
    for (int i = 0; is_on_ && i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node      = ggml_graph_node(graph, i);
        const int           layer_idx = router_layer(node);
        if (layer_idx >= 0 && node->ne[2] == 1) {
            routers_.push_back({node, layer_idx});
        }
    }
}

void RouteRecorder::on_node(InnerGraph & inner, const ggml_tensor * node) {
    if (next_router_ >= routers_.size() || routers_[next_router_].logits != node) {
        return;
    }
    source_layer_ = routers_[next_router_++].layer_idx;
    predictions_.clear();
    ggml_tensor * input   = node->src[1];
    const size_t  n_ahead = std::min<size_t>(RouteLog::max_distance, routers_.size() - next_router_);
    size_t        n_bytes = 0;
    for (size_t i = 0; i < n_ahead; ++i) {
        const ggml_tensor * weights = routers_[next_router_ + i].logits->src[0];
        if (weights->ne[0] != input->ne[0]) {
            return;
        }
        n_bytes += static_cast<size_t>(weights->ne[1] * input->ne[1]) * sizeof(float);
    }
    if (n_ahead == 0 || !inner.has_room(static_cast<int>(n_ahead) + 1, 0) || !scratch_.reserve(n_bytes)) {
        return;
    }
    char * data = scratch_.data();
    for (size_t i = 0; i < n_ahead; ++i) {
        ggml_tensor * guess = ggml_mul_mat(inner.context(), routers_[next_router_ + i].logits->src[0], input);
        guess->buffer       = scratch_.buffer();
        guess->data         = data;
        data += ggml_nbytes(guess);
        inner.add_made(guess);
        predictions_.push_back(*guess);
    }
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

Status RouteRecorder::on_layer(const LayerView & view, const std::vector<int32_t> & ids) {
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
    if (source_layer_ != view.layer_idx) {
        predictions_.clear();
    }
    for (uint32_t token = 0; token < view.n_tokens(); ++token) {
        add_predictions(log, token);
    }
    return {};
}

void RouteRecorder::add_predictions(RouteLog & log, int64_t token) {
    const size_t first = log.predicted_idxs.size();
    log.predicted_idxs.resize(first + RouteLog::max_distance * log.n_used, -1);
    log.predicted_weights.resize(log.predicted_idxs.size(), 0.0f);
    for (size_t distance = 0; distance < predictions_.size(); ++distance) {
        const ggml_tensor & guess    = predictions_[distance];
        const auto          n_expert = static_cast<size_t>(guess.ne[0]);
        if (token >= guess.ne[1] || log.n_used > n_expert) {
            continue;
        }
        logits_.resize(n_expert);
        ggml_backend_tensor_get(&guess, logits_.data(), static_cast<size_t>(token) * guess.nb[1],
                                n_expert * sizeof(float));
        order_.resize(n_expert);
        std::iota(order_.begin(), order_.end(), 0);
        std::partial_sort(order_.begin(), order_.begin() + log.n_used, order_.end(),
                          [this](int32_t a, int32_t b) { return logits_[a] > logits_[b]; });
        const float largest = logits_[order_[0]];
        float       sum     = 0.0f;
        for (const float logit : logits_) {
            sum += std::exp(logit - largest);
        }
        for (uint32_t i = 0; i < log.n_used; ++i) {
            const size_t at           = first + distance * log.n_used + i;
            log.predicted_idxs[at]    = order_[i];
            log.predicted_weights[at] = std::exp(logits_[order_[i]] - largest) / sum;
        }
    }
}

} // namespace hobbit
