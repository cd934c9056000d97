#include "policy/decayed_frequency.h"

#include <cassert>

namespace hobbit {

DecayedFrequency::DecayedFrequency(const EvictionModel & model, double decay)
    : decay_(decay), layers_(model.n_expert.size()) {
    for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].counts.resize(model.n_expert[i]);
    }
}

void DecayedFrequency::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size());
    Layer & layer = layers_[routing.layer_idx];
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        layer.n_tokens++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const auto expert_idx = static_cast<size_t>(routing.expert_idxs[size_t{token} * routing.n_used + i]);
            assert(expert_idx < layer.counts.size());
            decay_.add(layer.counts[expert_idx], layer.n_tokens, 1.0);
        }
    }
}

double DecayedFrequency::score(ExpertKey key) const {
    const Layer & layer = layers_[key.layer_idx];
    return decay_.at(layer.counts[key.expert_idx], layer.n_tokens);
}

} // namespace hobbit
