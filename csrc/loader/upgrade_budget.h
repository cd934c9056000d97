// How much may be read for upgrades: what the drive could have brought in the windows so far, less what was begun in
// them.
//
// What one window is too short for, several together are not. Guesses may take more than their window: that is made
// good by the next one at most, since a window that has gone by is no use to anybody.
#pragma once

#include <algorithm>
#include <cstdint>

namespace hobbit {

class UpgradeBudget {
  public:
    // A step begins, and with it ends a window in which the drive could have brought n_bytes.
    void save(uint64_t n_bytes) {
        const auto n = static_cast<int64_t>(n_bytes);
        n_left_      = std::min(std::max(n_left_, -n) + n, max_saved_bytes);
    }

    // A copy was begun to be read while nothing is wanted, on a guess or as an upgrade.
    void spend(uint64_t n_bytes) { n_left_ -= static_cast<int64_t>(n_bytes); }

    bool allows(uint64_t n_bytes) const { return n_left_ >= static_cast<int64_t>(n_bytes); }

  private:
    static constexpr int64_t max_saved_bytes = 64 << 20;

    int64_t n_left_ = 0; // below 0: the next window is spent already
};

} // namespace hobbit
