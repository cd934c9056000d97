// A count that fades: each use adds to it, every further token of its layer takes a share away. It is brought up to
// date when it is read, so that a token costs only its own experts.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace hobbit {

struct DecayedCount {
    double   value = 0;
    uint64_t token = 0; // the layer's clock at which `value` was right
};

class Decay {
  public:
    // `decay` is what is left after a token.
    explicit Decay(double decay) : decay_(decay) {
        for (size_t i = 0; i < powers_.size(); i++) {
            powers_[i] = std::pow(decay, static_cast<double>(i));
        }
    }

    double at(const DecayedCount & count, uint64_t token) const {
        const uint64_t age = token - count.token;
        return count.value * (age < powers_.size() ? powers_[age] : std::pow(decay_, static_cast<double>(age)));
    }
    void add(DecayedCount & count, uint64_t token, double weight) const { count = {at(count, token) + weight, token}; }

  private:
    double                   decay_;
    std::array<double, 2048> powers_; // a victim scan reads a count for each slot, and pow() is slow
};

} // namespace hobbit
