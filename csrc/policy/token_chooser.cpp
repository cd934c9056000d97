#include "policy/token_chooser.h"

#include <algorithm>
#include <numeric>

namespace hobbit {

void TokenChooser::choose(const PrecisionPolicy & policy, uint16_t layer_idx, const float * weights,
                          const Resident * resident, uint32_t n_used, Choice * choices) {
    ranks_.resize(n_used);
    weights_.resize(n_used);
    resident_.resize(n_used);
    choices_.resize(n_used);
    std::iota(ranks_.begin(), ranks_.end(), 0u);
    std::stable_sort(ranks_.begin(), ranks_.end(),
                     [weights](uint32_t a, uint32_t b) { return weights[a] > weights[b]; });
    const float sum   = std::accumulate(weights, weights + n_used, 0.0f);
    const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
    for (uint32_t i = 0; i < n_used; i++) {
        weights_[i]  = weights[ranks_[i]] * scale;
        resident_[i] = resident[ranks_[i]];
    }
    policy.choose(layer_idx, weights_.data(), resident_.data(), n_used, choices_.data());
    for (uint32_t i = 0; i < n_used; i++) {
        choices[ranks_[i]] = choices_[i];
    }
}

} // namespace hobbit
