#include "moe/router_predictor.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace hobbit {

namespace {

// Larger batches need most of a layer's experts, whatever is predicted.
constexpr int64_t max_tokens = 8;

// llama.cpp names a router's output ffn_moe_logits-<layer>.
int router_layer(const ggml_tensor * node) {
    static constexpr char prefix[] = "ffn_moe_logits-";
    if (node->op != GGML_OP_MUL_MAT || std::strncmp(node->name, prefix, sizeof(prefix) - 1) != 0) {
        return -1;
    }
    return std::atoi(node->name + sizeof(prefix) - 1);
}

} // namespace

void RouterPredictor::begin_graph(ggml_cgraph * graph) {
    routers_.clear();
    next_router_     = 0;
    predicted_layer_ = source_layer_ = -1;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node      = ggml_graph_node(graph, i);
        const int           layer_idx = router_layer(node);
        if (layer_idx >= 0 && node->ne[1] <= max_tokens && node->ne[2] == 1) {
            routers_.push_back({node, layer_idx});
        }
    }
}

void RouterPredictor::on_node(InnerGraph & inner, const ggml_tensor * node) {
    if (next_router_ >= routers_.size() || routers_[next_router_].logits != node) {
        return;
    }
    source_layer_    = routers_[next_router_].layer_idx;
    predicted_layer_ = -1;
    if (++next_router_ == routers_.size()) {
        return;
    }
    const Router & next    = routers_[next_router_];
    ggml_tensor *  input   = node->src[1];
    ggml_tensor *  weights = next.logits->src[0];
    if (weights->ne[0] != input->ne[0] || !inner.has_room(4, 0) ||
        !scratch_.reserve(static_cast<size_t>(weights->ne[1] * input->ne[1]) * sizeof(float))) {
        return;
    }
    ggml_tensor * guess = ggml_mul_mat(inner.context(), weights, input);
    guess->buffer       = scratch_.buffer();
    guess->data         = scratch_.data();
    inner.add_made(guess);
    prediction_      = *guess;
    predicted_layer_ = next.layer_idx;
}

const std::vector<ExpertKey> & RouterPredictor::predict(const LayerView & view) {
    keys_.clear();
    const auto & layers = view.model->layers;
    if (source_layer_ != view.layer_idx || predicted_layer_ < 0 ||
        static_cast<size_t>(predicted_layer_) >= layers.size() ||
        layers[static_cast<size_t>(predicted_layer_)].n_expert != static_cast<uint32_t>(prediction_.ne[0])) {
        return keys_;
    }
    logits_.resize(static_cast<size_t>(ggml_nelements(&prediction_)));
    ggml_backend_tensor_get(&prediction_, logits_.data(), 0, logits_.size() * sizeof(float));
    for (int64_t t = 0; t < prediction_.ne[1]; ++t) {
        choose(view, logits_.data() + t * prediction_.ne[0]);
    }
    return keys_;
}

// One token: its likeliest experts, each in the copy that the precision policy would pick if the guess is right.
void RouterPredictor::choose(const LayerView & view, const float * logits) {
    const auto layer_idx = static_cast<uint16_t>(predicted_layer_);
    const auto n_expert  = static_cast<size_t>(prediction_.ne[0]);
    const auto n_used    = std::min(static_cast<size_t>(view.n_used()), n_expert);
    ids_.resize(n_expert);
    std::iota(ids_.begin(), ids_.end(), 0);
    std::partial_sort(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(n_used), ids_.end(),
                      [logits](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    ids_.resize(n_used);

    const auto n = static_cast<uint32_t>(n_used);
    resident_.resize(n);
    view.model->loader->find_resident(layer_idx, ids_.data(), n, resident_.data());
    weights_.resize(n);
    for (uint32_t i = 0; i < n; ++i) {
        weights_[i] = std::exp(logits[ids_[i]] - logits[ids_[0]]);
    }
    const float sum = std::accumulate(weights_.begin(), weights_.end(), 0.0f);
    for (float & weight : weights_) {
        weight /= sum;
    }
    choices_.assign(n, Choice::hi);
    if (view.model->layouts->has(layer_idx, Precision::lo)) {
        view.model->precision_policy->choose(layer_idx, weights_.data(), resident_.data(), n, choices_.data());
    }
    for (uint32_t i = 0; i < n; ++i) {
        const bool has = choices_[i] == Choice::hi ? resident_[i] == Resident::hi : resident_[i] != Resident::none;
        if (choices_[i] != Choice::skip && !has) {
            keys_.push_back(
                {layer_idx, static_cast<uint16_t>(ids_[i]), choices_[i] == Choice::hi ? Precision::hi : Precision::lo});
        }
    }
}

} // namespace hobbit
