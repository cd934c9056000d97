#include "policy/next_use.h"

#include <cassert>

namespace hobbit {

NextUse::NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight,
                 double later_weight)
    : decay_(decay), rate_of_count_(1.0 - decay), last_weight_(last_weight), layer_weight_(layer_weight),
      later_weight_(model.lo_cost > 0.0 ? later_weight : 1.0), layers_(model.n_expert.size()) {
    for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].experts.resize(model.n_expert[i]);
    }
}

void NextUse::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size());
    Layer & layer = layers_[routing.layer_idx];
    layer.pass    = layer.n_tokens;
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        layer.n_tokens++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const auto expert_idx = static_cast<size_t>(routing.expert_idxs[size_t{token} * routing.n_used + i]);
            assert(expert_idx < layer.experts.size());
            Expert & expert = layer.experts[expert_idx];
            decay_.add(i == 0 ? expert.best : expert.later, layer.n_tokens, 1.0);
            (i == 0 ? expert.last_best : expert.last_later) = layer.n_tokens;
        }
    }
    layer_idx_ = routing.layer_idx;
}

double NextUse::chance(const DecayedCount & count, uint64_t last, const Layer & layer) const {
    const double rate = decay_.at(count, layer.n_tokens) * rate_of_count_;
    return (1.0 - last_weight_) * rate + (last > layer.pass ? last_weight_ : 0.0);
}

double NextUse::score(ExpertKey key) const {
    const Layer &  layer    = layers_[key.layer_idx];
    const Expert & expert   = layer.experts[key.expert_idx];
    const double   best     = chance(expert.best, expert.last_best, layer);
    const double   later    = chance(expert.later, expert.last_later, layer);
    const double   wanted   = key.precision == Precision::hi ? best + later_weight_ * later : best + later;
    const size_t   n_layers = layers_.size();
    // 1 for the next layer, n_layers for the current one.
    const size_t ahead = (key.layer_idx + n_layers - layer_idx_ - 1) % n_layers + 1;
    return wanted * (1.0 - layer_weight_ * static_cast<double>(ahead) / static_cast<double>(n_layers));
}

} // namespace hobbit
