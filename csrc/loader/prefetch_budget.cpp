#include "loader/prefetch_budget.h"

#include <algorithm>

namespace hobbit {

namespace {

void mix(double & mean, double sample, double alpha) { mean = mean > 0 ? mean + alpha * (sample - mean) : sample; }

} // namespace

void PrefetchBudget::on_step(uint64_t now_us) {
    if (last_step_us_ > 0) {
        mix(step_us_, static_cast<double>(now_us - last_step_us_), alpha);
        // A step whose reads never ended before the next one had no window: 1, since 0 is "not measured".
        mix(window_us_, free_since_us_ > 0 ? static_cast<double>(now_us - free_since_us_) : 1.0, alpha);
    }
    last_step_us_  = now_us;
    free_since_us_ = 0;
}

void PrefetchBudget::on_free(uint64_t now_us) {
    if (free_since_us_ == 0) {
        free_since_us_ = now_us;
    }
}

void PrefetchBudget::on_submit(uint64_t now_us) {
    if (busy_since_us_ == 0) {
        busy_since_us_ = now_us;
        busy_bytes_    = 0;
    }
}

void PrefetchBudget::on_complete(uint64_t now_us, uint64_t n_bytes, uint32_t n_in_flight) {
    constexpr uint64_t max_sample_us = 20000; // a drive that is never idle is measured in slices
    busy_bytes_ += n_bytes;
    const uint64_t busy_us = std::max<uint64_t>(now_us - busy_since_us_, 1);
    if (n_in_flight > 0 && busy_us < max_sample_us) {
        return;
    }
    mix(read_bytes_s_, static_cast<double>(busy_bytes_) * 1e6 / static_cast<double>(busy_us), alpha);
    busy_since_us_ = n_in_flight > 0 ? now_us : 0;
    busy_bytes_    = 0;
}

void PrefetchBudget::on_judged(bool was_wanted) { mix(wanted_share_, was_wanted ? 1.0 : 1e-9, judged_alpha); }

uint64_t PrefetchBudget::take() {
    if (wanted_share_ < min_wanted) {
        n_refused_ = (n_refused_ + 1) % steps_per_trial;
        return n_refused_ == 0 ? 1 : 0;
    }
    return window_bytes(surplus * wanted_share_);
}

uint64_t PrefetchBudget::window_bytes(double share) const {
    const double n_bytes = share * window_us_ * read_bytes_s_ / 1e6; // 0 before both were measured
    return std::clamp(static_cast<uint64_t>(n_bytes), uint64_t{1}, max_bytes);
}

} // namespace hobbit
