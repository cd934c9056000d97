#include "predict/horizon.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace hobbit {

HorizonKind horizon_kind(const std::string & name) {
    if (name == "fixed") {
        return HorizonKind::fixed;
    }
    if (name == "first-gap") {
        return HorizonKind::first_gap;
    }
    if (name == "all-decayed") {
        return HorizonKind::all_decayed;
    }
    if (name == "expertflow") {
        return HorizonKind::expertflow;
    }
    throw std::invalid_argument("unknown horizon '" + name +
                                "'; known are fixed, first-gap, all-decayed and expertflow");
}

void StepController::measure(double n_experts, double expert_bytes, double read_bytes_s, double layer_us) {
    if (read_bytes_s > 0 && layer_us > 0) {
        const double steps = n_experts * expert_bytes / (read_bytes_s * layer_us / 1e6);
        base_              = static_cast<uint32_t>(std::clamp(std::round(steps), 1.0, static_cast<double>(max_steps_)));
    }
}

void StepController::feedback(uint64_t n_late, uint64_t n_wasted) {
    const auto limit = static_cast<int32_t>(max_steps_);
    n_late_ += n_late;
    n_wasted_ += n_wasted;
    if (n_late_ >= threshold) {
        correction_ = std::min(correction_ + 1, limit);
        n_late_     = 0;
    }
    if (n_wasted_ >= threshold) {
        correction_ = std::max(correction_ - 1, -limit);
        n_wasted_   = 0;
    }
}

uint32_t StepController::n_steps() const {
    return static_cast<uint32_t>(
        std::clamp(static_cast<int32_t>(base_) + correction_, 1, static_cast<int32_t>(max_steps_)));
}

} // namespace hobbit
