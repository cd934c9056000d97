// Keeps the costs that the plan of a step goes by up to date.
#pragma once

#include "tier/step_plan.h"

#include <cstdint>

namespace hobbit {

class CostMeter {
  public:
    // Totals of the copy queue, which only grow.
    void on_copied(uint64_t total_bytes, uint64_t total_busy_us);
    // The host multiplied by `n_bytes` of matrices for `n_rows` rows each.
    void on_host_product(uint64_t n_bytes, uint32_t n_rows, double duration_us);

    const TierCosts & costs() const { return costs_; }

  private:
    TierCosts costs_;
    uint64_t  seen_bytes_   = 0;
    uint64_t  seen_busy_us_ = 0;
    uint32_t  n_copy_       = 0;
    uint32_t  n_host_       = 0;
};

} // namespace hobbit
