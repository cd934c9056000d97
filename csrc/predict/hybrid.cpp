#include "predict/hybrid.h"

#include "predict/stacked_gates.h"

#include <stdexcept>
#include <utility>

namespace hobbit {

Hybrid::Hybrid(const PredictorModel & model, std::shared_ptr<const HybridWeights> weights)
    : model_(model), weights_(std::move(weights)), last_(model.n_expert.size()), now_(model.n_expert.size()) {
    const auto fits = [&](const HybridMap & map, size_t target_idx, size_t source_idx) {
        const size_t n_features =
            model_.n_expert[source_idx] + model_.n_expert[target_idx] + weights_->n_token_rows + 1;
        return map.shifts.empty() || map.shifts.size() == n_features * model_.n_expert[target_idx];
    };
    std::vector<size_t> moe_layers;
    for (size_t i = 0; i < model_.n_expert.size(); i++) {
        if (model_.n_expert[i] > 0) {
            moe_layers.push_back(i);
        }
    }
    bool all_fit = weights_->maps.size() <= model_.n_expert.size();
    for (size_t i = 0; all_fit && i < moe_layers.size() && moe_layers[i] < weights_->maps.size(); i++) {
        const auto & of_layer = weights_->maps[moe_layers[i]];
        for (size_t d = 0; d < of_layer.size(); d++) {
            all_fit = all_fit &&
                      (d < i ? fits(of_layer[d], moe_layers[i], moe_layers[i - d - 1]) : of_layer[d].shifts.empty());
        }
    }
    for (const int32_t row : weights_->token_rows) {
        all_fit = all_fit && row >= 0 && static_cast<uint32_t>(row) < weights_->n_token_rows;
    }
    if (!all_fit || weights_->token_rows.empty()) {
        throw std::invalid_argument("the hybrid predictor was trained for another model");
    }
}

void Hybrid::begin_sequence() {
    last_.assign(last_.size(), {});
    now_.assign(now_.size(), {});
}

void Hybrid::begin_pass(const int32_t * token_ids, uint32_t n_tokens) {
    token_rows_.assign(n_tokens, static_cast<int32_t>(weights_->n_token_rows) - 1);
    for (uint32_t t = 0; token_ids != nullptr && t < n_tokens; t++) {
        if (token_ids[t] >= 0 && static_cast<size_t>(token_ids[t]) < weights_->token_rows.size()) {
            token_rows_[t] = weights_->token_rows[static_cast<size_t>(token_ids[t])];
        }
    }
    for (size_t i = 0; i < now_.size(); i++) {
        if (!now_[i].empty()) {
            last_[i].assign(now_[i].end() - model_.n_used, now_[i].end());
            now_[i].clear();
        }
    }
}

void Hybrid::observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    if (n_used == model_.n_used) {
        now_[layer_idx].assign(expert_idxs, expert_idxs + static_cast<size_t>(n_used) * n_tokens);
    }
}

void Hybrid::add_row(const HybridMap & map, size_t feature, uint32_t n_expert) {
    const float * row = map.shifts.data() + feature * n_expert;
    for (uint32_t i = 0; i < n_expert; i++) {
        logits_[i] += row[i];
    }
}

uint32_t Hybrid::predict(const PredictionTarget & target, std::vector<float> & rows) {
    if (target.gate_logits == nullptr) {
        return 0;
    }
    static const std::vector<HybridMap> none;
    const auto & of_layer = target.layer_idx < weights_->maps.size() ? weights_->maps[target.layer_idx] : none;
    const size_t n_source = model_.n_expert[target.source_layer_idx];
    const size_t n        = target.n_expert;
    const std::vector<int32_t> & source = now_[target.source_layer_idx];
    const HybridMap *            map    = target.distance <= of_layer.size() ? &of_layer[target.distance - 1] : nullptr;
    if (map != nullptr &&
        (map->shifts.empty() || source.size() != static_cast<size_t>(target.n_tokens) * model_.n_used)) {
        map = nullptr;
    }
    for (uint32_t t = 0; t < target.n_tokens; t++) {
        logits_.assign(target.gate_logits + t * n, target.gate_logits + (t + 1) * n);
        if (map != nullptr) {
            for (uint32_t i = 0; i < model_.n_used; i++) {
                add_row(*map, static_cast<size_t>(source[t * model_.n_used + i]), target.n_expert);
            }
            // What the token before selected in the target layer: of this pass it is not known yet.
            for (size_t i = 0; t == 0 && i < last_[target.layer_idx].size(); i++) {
                add_row(*map, n_source + static_cast<size_t>(last_[target.layer_idx][i]), target.n_expert);
            }
            if (t < token_rows_.size()) {
                add_row(*map, n_source + n + static_cast<size_t>(token_rows_[t]), target.n_expert);
            }
            add_row(*map, n_source + n + weights_->n_token_rows, target.n_expert);
        }
        append_softmax(logits_.data(), target.n_expert, rows);
    }
    return target.n_tokens;
}

} // namespace hobbit
