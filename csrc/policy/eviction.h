// Which resident expert goes when room is needed. Pure: no locks, no IO, no clock but the token count.
#pragma once

#include "base/types.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

// Called by the cache's owner under its lock, so calls never overlap.
class EvictionPolicy {
  public:
    virtual ~EvictionPolicy() = default;

    virtual const char * name() const = 0;

    // A layer routed `n_tokens` tokens in order; expert_idxs is [n_tokens][n_used], row by row.
    virtual void on_route(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) = 0;

    // How much the copy is worth keeping; the smallest is evicted.
    virtual double score(ExpertKey key) const = 0;

    // A new sequence begins.
    virtual void reset() = 0;
};

// n_expert is [n_layers]; layers without experts have 0.
//   "lru"        least recently used
//   "frequency"  uses decayed by 0.98 a token: on recorded traces 3 / 7 / 14 % fewer misses than LRU with room for
//                1/8, 1/4 and 1/2 of the experts
// Throws std::invalid_argument for another name.
std::unique_ptr<EvictionPolicy> make_eviction_policy(const std::string & name, const std::vector<uint32_t> & n_expert);

} // namespace hobbit
