#include "policy/substitute.h"

#include "policy/stand_ins.h"

#include <cmath>

namespace hobbit {

void Substitute::select(uint16_t, const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                        int32_t * order) {
    if (n_used >= n_expert || margin_ <= 0.0f) {
        return;
    }
    // Ratios of weights are differences of scores.
    const float edge  = scores[order[n_used]];
    const float above = edge + std::log1p(margin_);
    const float below = edge + std::log1p(-margin_);
    replace_missing(scores, resident, n_expert, n_used, n_protected_, order, [=](int32_t missing, int32_t stand_in) {
        return scores[missing] < above && scores[stand_in] >= below;
    });
}

} // namespace hobbit
