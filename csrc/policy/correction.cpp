#include "policy/correction.h"

#include <algorithm>

namespace hobbit {

void Correction::clear() {
    rows_.clear();
    std::fill(sum_.begin(), sum_.end(), 0.0);
}

void Correction::add(Place place, const int32_t * idxs, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const size_t row = first_row_[static_cast<size_t>(place)] + static_cast<size_t>(idxs[i]);
        rows_.push_back(row);
        const float * weights = weights_.data() + row * n_own_;
        for (size_t e = 0; e < n_own_; e++) {
            sum_[e] += static_cast<double>(weights[e]);
        }
    }
}

void Correction::learn(double rate, const std::vector<double> & counted, const int32_t * idxs, uint32_t n) {
    if (rows_.empty()) {
        return;
    }
    const double share = rate / static_cast<double>(rows_.size());
    step_.assign(n_own_, 0.0);
    for (uint32_t i = 0; i < n; i++) {
        step_[static_cast<size_t>(idxs[i])] = 1.0;
    }
    for (size_t e = 0; e < n_own_; e++) {
        step_[e] = share * (step_[e] - (counted[e] + sum_[e]));
    }
    for (const size_t row : rows_) {
        float * weights = weights_.data() + row * n_own_;
        for (size_t e = 0; e < n_own_; e++) {
            weights[e] = static_cast<float>(static_cast<double>(weights[e]) + step_[e]);
        }
    }
}

} // namespace hobbit
