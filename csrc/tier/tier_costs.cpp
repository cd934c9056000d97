#include "tier/tier_costs.h"

#include <algorithm>

namespace hobbit {

namespace {

constexpr uint64_t min_sample_bytes = 8 << 20;
constexpr uint32_t max_weight       = 20; // samples that an average remembers

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

void CostMeter::on_host_product(uint64_t n_bytes, uint32_t n_rows, double duration_us) {
    const double effective = static_cast<double>(n_bytes) * (1.0 + host_row_share * (std::max(n_rows, 1u) - 1));
    if (effective > 0) {
        average(costs_.host_us_per_byte, duration_us / effective, n_host_);
    }
}

} // namespace hobbit
