#include "policy/moe_infinity.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

namespace {

constexpr double epsilon = 1e-6; // an expert without uses keeps the order of the layers

} // namespace

MoeInfinity::MoeInfinity(const EvictionModel & model) : layers_(model.n_expert.size()) {
    for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].uses.values.resize(model.n_expert[i]);
        layers_[i].expected.values.resize(model.n_expert[i]);
    }
}

void MoeInfinity::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size());
    Row & row = layers_[routing.layer_idx].uses;
    for (size_t pair = 0; pair < size_t{routing.n_tokens} * routing.n_used; pair++) {
        row.values[static_cast<size_t>(routing.expert_idxs[pair])] += 1.0;
        row.sum += 1.0;
    }
}

void MoeInfinity::on_predict(uint16_t, const ExpectedUse * uses, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        Layer & layer = layers_[uses[i].layer_idx];
        if (i == 0 || uses[i].layer_idx != uses[i - 1].layer_idx) {
            std::fill(layer.expected.values.begin(), layer.expected.values.end(), 0.0);
            layer.expected.sum = 0;
            layer.is_predicted = true;
        }
        layer.expected.values[uses[i].expert_idx] = static_cast<double>(uses[i].probability);
        layer.expected.sum += static_cast<double>(uses[i].probability);
    }
}

double MoeInfinity::score(ExpertKey key) const {
    const Layer & layer    = layers_[key.layer_idx];
    const Row &   row      = layer.is_predicted ? layer.expected : layer.uses;
    const double  n_expert = static_cast<double>(row.values.size());
    const double  chance   = (row.values[key.expert_idx] + epsilon) / (row.sum + n_expert * epsilon);
    return chance * (1.0 - static_cast<double>(key.layer_idx) / static_cast<double>(layers_.size()));
}

void MoeInfinity::reset() {
    for (Layer & layer : layers_) {
        for (Row * row : {&layer.uses, &layer.expected}) {
            std::fill(row->values.begin(), row->values.end(), 0.0);
            row->sum = 0;
        }
        layer.is_predicted = false;
    }
}

} // namespace hobbit
