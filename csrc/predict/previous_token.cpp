#include "predict/previous_token.h"

namespace hobbit {

void PreviousToken::observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    const int32_t * last_row = expert_idxs + static_cast<size_t>(n_tokens - 1) * n_used;
    last_[layer_idx].assign(last_row, last_row + n_used);
}

uint32_t PreviousToken::predict(const PredictionTarget & target, std::vector<float> & rows) {
    const std::vector<int32_t> & last = last_[target.layer_idx];
    if (last.empty()) {
        return 0;
    }
    const size_t first = rows.size();
    rows.resize(first + target.n_expert, 0.0f);
    for (const int32_t expert_idx : last) {
        rows[first + static_cast<size_t>(expert_idx)] += 1.0f / static_cast<float>(last.size());
    }
    return 1;
}

} // namespace hobbit
