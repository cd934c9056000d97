#include "policy/decayed_frequency.h"

#include <cassert>
#include <cmath>

namespace hobbit {

DecayedFrequency::DecayedFrequency(const std::vector<uint32_t> & n_expert) : layers_(n_expert.size()) {
    for (size_t i = 0; i < n_expert.size(); i++) {
        layers_[i].records.resize(n_expert[i]);
    }
    for (size_t i = 0; i < powers_.size(); i++) {
        powers_[i] = std::pow(decay, static_cast<double>(i));
    }
}

double DecayedFrequency::decayed(const Layer & layer, const Record & record) const {
    const uint64_t age = layer.n_tokens - record.last_token;
    return record.value * (age < powers_.size() ? powers_[age] : std::pow(decay, static_cast<double>(age)));
}

void DecayedFrequency::on_route(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    assert(layer_idx < layers_.size());
    Layer & layer = layers_[layer_idx];
    for (uint32_t token = 0; token < n_tokens; token++) {
        layer.n_tokens++;
        for (uint32_t i = 0; i < n_used; i++) {
            const size_t expert_idx = static_cast<size_t>(expert_idxs[size_t{token} * n_used + i]);
            assert(expert_idx < layer.records.size());
            Record & record = layer.records[expert_idx];
            record          = {decayed(layer, record) + 1.0, layer.n_tokens};
        }
    }
}

double DecayedFrequency::score(ExpertKey key) const {
    const Layer & layer = layers_[key.layer_idx];
    return decayed(layer, layer.records[key.expert_idx]);
}

} // namespace hobbit
