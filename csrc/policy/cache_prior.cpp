#include "policy/cache_prior.h"

#include <algorithm>
#include <cmath>

namespace hobbit {

void CachePrior::select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert,
                        uint32_t n_used, int32_t * order) {
    float low = INFINITY, high = -INFINITY;
    for (uint32_t i = 0; i < n_expert; i++) {
        if (std::isfinite(scores[i])) {
            low  = std::min(low, scores[i]);
            high = std::max(high, scores[i]);
        }
    }
    if (high < low) {
        return;
    }
    spreads_.resize(std::max<size_t>(spreads_.size(), layer_idx + 1u));
    Spread & spread = spreads_[layer_idx];
    spread.n++;
    spread.mean += (static_cast<double>(high - low) - spread.mean) / static_cast<double>(spread.n);

    const float bonus = strength_ * static_cast<float>(spread.mean);
    biased_.assign(scores, scores + n_expert);
    for (uint32_t i = 0; i < n_expert; i++) {
        biased_[i] += resident[i] != Resident::none ? bonus : 0.0f;
    }
    const auto by_bias = [this](int32_t a, int32_t b) {
        return biased_[static_cast<size_t>(a)] > biased_[static_cast<size_t>(b)];
    };
    const auto by_score = [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; };
    // Stable: without a bonus everything stays where it is, equal scores too.
    std::stable_sort(order + std::min(n_protected_, n_used), order + n_expert, by_bias);
    std::stable_sort(order, order + n_used, by_score);
}

} // namespace hobbit
