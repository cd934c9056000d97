#include "tier/tier_costs.h"

#include <algorithm>
#include <utility>

namespace hobbit {

namespace {

constexpr uint64_t min_sample_bytes = 8 << 20;
constexpr uint32_t max_weight       = 20; // samples that an average remembers
constexpr double   max_outlier      = 4;  // times the average: more is a thread that lost its core
constexpr double   unused_decay     = 0.98;
constexpr uint32_t max_line_weight  = 100;
constexpr double   min_spread       = 0.2; // of the mean

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

void LineFit::add(double x, double y) {
    n_              = std::min(n_ + 1, max_line_weight);
    const double w  = 1.0 / n_;
    const double dx = x - mean_x_, dy = y - mean_y_;
    mean_x_ += w * dx;
    mean_y_ += w * dy;
    var_x_ = (1 - w) * (var_x_ + w * dx * dx);
    cov_   = (1 - w) * (cov_ + w * dx * dy);
}

bool LineFit::is_known() const { return n_ >= max_weight && var_x_ > min_spread * min_spread * mean_x_ * mean_x_; }

double LineFit::intercept() const {
    return is_known() ? std::clamp(mean_y_ - cov_ / var_x_ * mean_x_, 0.0, mean_y_) : 0.0;
}

void CostMeter::on_host_work(const HostWork & work) {
    double expected_us = 0;
    int    n_kinds = 0, kind = 0;
    for (int p = 0; p < n_precisions; p++) {
        expected_us += work.effective[p] * costs_.host_us_per_byte[p];
        if (work.effective[p] > 0) {
            n_kinds++;
            kind = p;
        }
    }
    if (expected_us <= 0 || !std::exchange(host_is_warm_, true)) {
        return;
    }
    const double duration_us = std::min(work.duration_us, max_outlier * (costs_.host_start_us + expected_us));
    if (n_kinds == 1) {
        host_line_[kind].add(work.effective[kind], duration_us);
        if (host_line_[kind].is_known()) {
            average(costs_.host_start_us, host_line_[kind].intercept(), n_start_);
        }
    }
    // Both precisions may be in it: the surprise is theirs alike.
    const double ratio = std::max(duration_us - costs_.host_start_us, 0.1 * duration_us) / expected_us;
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
    costs_.host_start_us *= unused_decay;
}

} // namespace hobbit
