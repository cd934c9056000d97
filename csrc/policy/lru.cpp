#include "policy/lru.h"

#include <cassert>

namespace hobbit {

Lru::Lru(const EvictionModel & model) {
    for (const uint32_t n : model.n_expert) {
        last_use_.emplace_back(n, 0);
    }
}

void Lru::on_route(const Routing & routing) {
    assert(routing.layer_idx < last_use_.size());
    std::vector<uint64_t> & last_use = last_use_[routing.layer_idx];
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        clock_++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const auto expert_idx = static_cast<size_t>(routing.expert_idxs[size_t{token} * routing.n_used + i]);
            assert(expert_idx < last_use.size());
            last_use[expert_idx] = clock_;
        }
    }
}

double Lru::score(ExpertKey key) const { return static_cast<double>(last_use_[key.layer_idx][key.expert_idx]); }

} // namespace hobbit
