#include "policy/eviction.h"

#include "policy/decayed_frequency.h"
#include "policy/lru.h"

#include <stdexcept>

namespace hobbit {

std::unique_ptr<EvictionPolicy> make_eviction_policy(const std::string & name, const std::vector<uint32_t> & n_expert) {
    if (name == "lru") {
        return std::make_unique<Lru>(n_expert);
    }
    if (name == "frequency") {
        return std::make_unique<DecayedFrequency>(n_expert);
    }
    throw std::invalid_argument("unknown eviction policy '" + name + "': expected 'frequency' or 'lru'");
}

} // namespace hobbit
