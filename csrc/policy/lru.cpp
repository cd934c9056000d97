#include "policy/lru.h"

#include <cassert>

namespace hobbit {

Lru::Lru(const std::vector<uint32_t> & n_expert) {
    for (const uint32_t n : n_expert) {
        last_use_.emplace_back(n, 0);
    }
}

void Lru::on_route(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    assert(layer_idx < last_use_.size());
    std::vector<uint64_t> & last_use = last_use_[layer_idx];
    for (uint32_t token = 0; token < n_tokens; token++) {
        clock_++;
        for (uint32_t i = 0; i < n_used; i++) {
            const size_t expert_idx = static_cast<size_t>(expert_idxs[size_t{token} * n_used + i]);
            assert(expert_idx < last_use.size());
            last_use[expert_idx] = clock_;
        }
    }
}

double Lru::score(ExpertKey key) const { return static_cast<double>(last_use_[key.layer_idx][key.expert_idx]); }

} // namespace hobbit
