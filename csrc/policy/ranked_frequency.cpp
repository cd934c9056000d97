#include "policy/ranked_frequency.h"

#include <cassert>

namespace hobbit {

RankedFrequency::RankedFrequency(const EvictionModel & model, double decay, double later_weight)
    : decay_(decay), later_weight_(later_weight), layers_(model.n_expert.size()) {
    for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].experts.resize(model.n_expert[i]);
    }
}

void RankedFrequency::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size());
    Layer & layer = layers_[routing.layer_idx];
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        layer.n_tokens++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const auto expert_idx = static_cast<size_t>(routing.expert_idxs[size_t{token} * routing.n_used + i]);
            assert(expert_idx < layer.experts.size());
            Expert & expert = layer.experts[expert_idx];
            decay_.add(i == 0 ? expert.best : expert.later, layer.n_tokens, 1.0);
        }
    }
}

double RankedFrequency::score(ExpertKey key) const {
    const Layer &  layer  = layers_[key.layer_idx];
    const Expert & expert = layer.experts[key.expert_idx];
    const double   later  = decay_.at(expert.later, layer.n_tokens);
    return key.precision == Precision::lo ? later : decay_.at(expert.best, layer.n_tokens) + later_weight_ * later;
}

} // namespace hobbit
