#include "tier/tier_costs.h"

#include <algorithm>
#include <utility>

namespace hobbit {

namespace {

constexpr uint64_t min_sample_bytes = 8 << 20;
constexpr uint32_t max_weight       = 20; // samples that an average remembers
constexpr double   max_outlier      = 4;  // times the average: more is a thread that lost its core
constexpr double   unused_decay     = 0.98;

// The plain mean at first, a moving one later.
void average(double & mean, double sample, uint32_t & n) {
    n = std::min(n + 1, max_weight);
    mean += (sample - mean) / n;
}

} // namespace

void CostMeter::on_copied(uint64_t total_bytes, uint64_t total_busy_us) {
    const uint64_t n_bytes = total_bytes - seen_bytes_;
    if (n_bytes < min_sample_bytes || total_busy_us == seen_busy_us_) {
        return;
    }
    average(costs_.copy_us_per_byte, static_cast<double>(total_busy_us - seen_busy_us_) / static_cast<double>(n_bytes),
            n_copy_);
    seen_bytes_   = total_bytes;
    seen_busy_us_ = total_busy_us;
}

void CostMeter::on_host_work(const HostWork & work) {
    double expected_us = 0;
    for (int p = 0; p < n_precisions; p++) {
        expected_us += work.effective[p] * costs_.host_us_per_byte[p];
    }
    if (expected_us <= 0 || !std::exchange(host_is_warm_, true)) {
        return;
    }
    // Both precisions may be in it: the surprise is theirs alike.
    const double ratio = std::min(work.duration_us / expected_us, max_outlier);
    for (int p = 0; p < n_precisions; p++) {
        if (work.effective[p] > 0) {
            average(costs_.host_us_per_byte[p], costs_.host_us_per_byte[p] * ratio, n_host_[p]);
        }
    }
}

void CostMeter::on_host_unused() {
    for (double & cost : costs_.host_us_per_byte) {
        cost *= unused_decay;
    }
}

} // namespace hobbit
