#include "policy/followers.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

void Followers::add(const int32_t * expert_idxs, uint32_t n) {
    for (const int32_t expert_idx : last_) {
        const auto row    = counts_.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(expert_idx) * n_expert_);
        uint8_t &  n_uses = n_uses_[static_cast<size_t>(expert_idx)];
        if (n_uses == max_count) {
            n_uses = static_cast<uint8_t>(n_uses / 2);
            std::transform(row, row + static_cast<std::ptrdiff_t>(n_expert_), row,
                           [](uint8_t count) { return static_cast<uint8_t>(count / 2); });
        }
        n_uses++;
        for (uint32_t i = 0; i < n; i++) {
            row[expert_idxs[i]]++;
        }
    }
    last_.assign(expert_idxs, expert_idxs + n);
}

void Followers::chances(const std::vector<double> & rates, double prior, std::vector<double> & chances) const {
    assert(!last_.empty());
    chances.assign(n_expert_, 0.0);
    for (const int32_t expert_idx : last_) {
        const uint8_t * row   = counts_.data() + static_cast<size_t>(expert_idx) * n_expert_;
        const double    total = n_uses_[static_cast<size_t>(expert_idx)] + prior;
        for (size_t e = 0; e < n_expert_; e++) {
            chances[e] += (row[e] + prior * rates[e]) / total;
        }
    }
    for (double & chance : chances) {
        chance /= static_cast<double>(last_.size());
    }
}

} // namespace hobbit
