#include "policy/reroute.h"

#include "policy/stand_ins.h"

#include <cmath>

namespace hobbit {

void Reroute::select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert,
                     uint32_t n_used, int32_t * order) {
    const float tolerance = tolerance_ - fall_ * static_cast<float>(layer_idx);
    if (n_used >= n_expert || tolerance <= 0.0f) {
        return;
    }
    const double best  = scores[order[0]];
    double       total = 0;
    for (uint32_t i = 0; i < n_used; ++i) {
        total += std::exp(scores[order[i]] - best);
    }
    // Ratios of weights are differences of scores.
    const double limit = std::log(static_cast<double>(tolerance)) + std::log(total) + best;
    replace_missing(scores, resident, n_expert, n_used, n_protected_, order, [=](int32_t missing, int32_t stand_in) {
        return 2.0 * scores[missing] - scores[stand_in] < limit;
    });
}

} // namespace hobbit
