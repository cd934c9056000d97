// Keeps the costs that the plan of a step goes by up to date.
#pragma once

#include "base/types.h"
#include "tier/step_plan.h"

#include <cstdint>

namespace hobbit {

// What the host multiplied by in one go.
struct HostWork {
    uint32_t n_parts                 = 0;  // matrices
    double   effective[n_precisions] = {}; // effective_bytes() of them
    double   duration_us             = 0;

    void add(Precision precision, uint64_t n_bytes, uint32_t n_rows) {
        n_parts++;
        effective[static_cast<int>(precision)] += effective_bytes(n_bytes, n_rows);
    }
};

// A straight line through what was measured of late.
class LineFit {
  public:
    void add(double x, double y);
    // Where it begins, at x = 0; 0 while all x are about the same.
    double intercept() const;
    bool   is_known() const;

  private:
    double   mean_x_ = 0, mean_y_ = 0, var_x_ = 0, cov_ = 0;
    uint32_t n_ = 0;
};

class CostMeter {
  public:
    // Totals of the copy queue, which only grow.
    void on_copied(uint64_t total_bytes, uint64_t total_busy_us);
    // Not counted the first time: threads start, pages are touched.
    void on_host_work(const HostWork & work);
    // A step was planned without the host. Its cost is not measured then, so what is known of it slowly loses its
    // weight against the hope that it is better, or one bad moment would rule it out for ever.
    void on_host_unused();

    const TierCosts & costs() const { return costs_; }

  private:
    TierCosts costs_;
    uint64_t  seen_bytes_           = 0;
    uint64_t  seen_busy_us_         = 0;
    uint32_t  n_copy_               = 0;
    uint32_t  n_start_              = 0;
    uint32_t  n_host_[n_precisions] = {};
    LineFit   host_line_[n_precisions]; // of duration over effective bytes
    bool      host_is_warm_ = false;
};

} // namespace hobbit
