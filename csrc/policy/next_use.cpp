#include "policy/next_use.h"

#include <cassert>

namespace hobbit {

NextUse::NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight,
                 double follow_weight, double mixed_follow_weight, double later_weight)
    : decay_(decay), rate_of_count_(1.0 - decay), last_weight_(last_weight), layer_weight_(layer_weight),
      follow_weight_(model.lo_cost > 0.0 ? mixed_follow_weight : follow_weight),
      later_weight_(model.lo_cost > 0.0 ? later_weight : 1.0), layers_(model.n_expert.begin(), model.n_expert.end()) {}

void NextUse::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size() && routing.n_tokens > 0);
    Layer &        layer = layers_[routing.layer_idx];
    const uint64_t pass  = layer.n_tokens; // the clock before this batch
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        const int32_t * expert_idxs = routing.expert_idxs + size_t{token} * routing.n_used;
        layer.n_tokens++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const auto expert_idx = static_cast<size_t>(expert_idxs[i]);
            assert(expert_idx < layer.experts.size());
            Expert & expert = layer.experts[expert_idx];
            decay_.add(expert.uses, layer.n_tokens, 1.0);
            if (i == 0) {
                decay_.add(expert.uses_as_best, layer.n_tokens, 1.0);
            }
            expert.last = layer.n_tokens;
        }
        layer.followers.add(expert_idxs, routing.n_used);
    }
    layer_idx_ = routing.layer_idx;

    rates_.resize(layer.experts.size());
    for (size_t e = 0; e < rates_.size(); e++) {
        rates_[e] = decay_.at(layer.experts[e].uses, layer.n_tokens) * rate_of_count_;
    }
    layer.followers.chances(rates_, prior, following_);
    for (size_t e = 0; e < rates_.size(); e++) {
        const Expert & expert    = layer.experts[e];
        const double   by_itself = (1.0 - last_weight_) * rates_[e] + (expert.last > pass ? last_weight_ : 0.0);
        layer.chances[e]         = (1.0 - follow_weight_) * by_itself + follow_weight_ * following_[e];

        const double uses  = decay_.at(expert.uses, layer.n_tokens);
        const double best  = uses > 0.0 ? decay_.at(expert.uses_as_best, layer.n_tokens) / uses : 0.0;
        layer.hi_shares[e] = later_weight_ + (1.0 - later_weight_) * best;
    }
}

double NextUse::score(ExpertKey key) const {
    const Layer & layer    = layers_[key.layer_idx];
    const size_t  n_layers = layers_.size();
    // 1 for the next layer, n_layers for the current one.
    const size_t ahead = (key.layer_idx + n_layers - layer_idx_ - 1) % n_layers + 1;
    const double share = key.precision == Precision::hi ? layer.hi_shares[key.expert_idx] : 1.0;
    return share * layer.chances[key.expert_idx] *
           (1.0 - layer_weight_ * static_cast<double>(ahead) / static_cast<double>(n_layers));
}

// Chances stay: they are forgotten by decay.
void NextUse::reset() {
    for (Layer & layer : layers_) {
        layer.followers.forget_last();
    }
}

} // namespace hobbit
