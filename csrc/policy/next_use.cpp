#include "policy/next_use.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

namespace {

constexpr double least_share = 0.5; // of a counted chance that a correction leaves

// The layer that routes before each layer with experts, [n_layers]: the last one before the first.
std::vector<uint16_t> layers_before(const std::vector<uint32_t> & n_expert) {
    std::vector<uint16_t> before(n_expert.size());
    uint16_t              last = 0;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n_expert.size(); i++) {
            before[i] = last;
            last      = n_expert[i] > 0 ? static_cast<uint16_t>(i) : last;
        }
    }
    return before;
}

// The experts of the layers that route before and after each layer, [n_layers].
struct Neighbours {
    explicit Neighbours(const std::vector<uint32_t> & n_expert) : n_before(n_expert.size()), n_after(n_expert.size()) {
        const std::vector<uint16_t> before = layers_before(n_expert);
        for (size_t i = 0; i < n_expert.size(); i++) {
            if (n_expert[i] > 0) {
                n_before[i]        = n_expert[before[i]];
                n_after[before[i]] = n_expert[i];
            }
        }
    }

    std::vector<uint32_t> n_before, n_after;
};

} // namespace

NextUse::NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight,
                 double follow_weight, double mixed_follow_weight, double later_weight, double learning_rate,
                 double trained_weight)
    : decay_(decay), rate_of_count_(1.0 - decay), last_weight_(last_weight), layer_weight_(layer_weight),
      follow_weight_(model.lo_cost > 0.0 ? mixed_follow_weight : follow_weight),
      later_weight_(model.lo_cost > 0.0 ? later_weight : 1.0), learning_rate_(learning_rate),
      trained_weight_(trained_weight), before_(layers_before(model.n_expert)) {
    const Neighbours neighbours(model.n_expert);
    for (size_t i = 0; i < model.n_expert.size(); i++) {
        const bool learns = learning_rate > 0.0;
        layers_.emplace_back(learns ? neighbours.n_before[i] : 0, model.n_expert[i],
                             learns ? neighbours.n_after[i] : 0);
    }
}

uint64_t NextUse::n_bytes(const std::vector<uint32_t> & n_expert) {
    const Neighbours neighbours(n_expert);
    uint64_t         bytes = 0;
    for (size_t i = 0; i < n_expert.size(); i++) {
        bytes += Correction::n_bytes(neighbours.n_before[i], n_expert[i], neighbours.n_after[i]) +
                 uint64_t{n_expert[i]} * n_expert[i]; // followers
    }
    return bytes;
}

void NextUse::Layer::set_chances() {
    for (size_t e = 0; e < chances.size(); e++) {
        chances[e] = std::max(least_share * counted[e], counted[e] + correction.sum()[e]);
    }
}

// A pass tells what came after the last token, by its first one; its last one is what the next pass comes after.
void NextUse::correct(const Routing & routing) {
    Layer &         layer = layers_[routing.layer_idx];
    const int32_t * last  = routing.expert_idxs + size_t{routing.n_tokens - 1} * routing.n_used;
    layer.correction.clear();
    layer.correction.add(Correction::Place::own, last, routing.n_used);
    const uint16_t before = before_[routing.layer_idx];
    if (routed_idx_ == before && before != routing.layer_idx) {
        layer.correction.add(Correction::Place::before, routed_.data(), static_cast<uint32_t>(routed_.size()));
        layers_[before].correction.add(Correction::Place::after, last, routing.n_used);
        layers_[before].set_chances();
    }
    routed_idx_ = routing.layer_idx;
    routed_.assign(last, last + routing.n_used);
}

void NextUse::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size() && routing.n_tokens > 0);
    Layer &        layer = layers_[routing.layer_idx];
    const uint64_t pass  = layer.n_tokens; // the clock before this batch
    layer.correction.learn(learning_rate_, layer.counted, routing.expert_idxs, routing.n_used);
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
        layer.counted[e]         = (1.0 - follow_weight_) * by_itself + follow_weight_ * following_[e];

        const double uses  = decay_.at(expert.uses, layer.n_tokens);
        const double best  = uses > 0.0 ? decay_.at(expert.uses_as_best, layer.n_tokens) / uses : 0.0;
        layer.hi_shares[e] = later_weight_ + (1.0 - later_weight_) * best;
    }
    if (learning_rate_ > 0.0) {
        correct(routing);
    }
    layer.set_chances();
}

void NextUse::on_next_token(uint16_t layer_idx, const float * chances, uint32_t n) {
    Layer & layer = layers_[layer_idx];
    assert(n == layer.experts.size());
    for (size_t e = 0; e < n; e++) {
        layer.counted[e] =
            (1.0 - trained_weight_) * layer.counted[e] + trained_weight_ * static_cast<double>(chances[e]);
    }
    layer.set_chances();
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
        layer.correction.clear();
    }
    routed_idx_ = no_layer;
}

} // namespace hobbit
