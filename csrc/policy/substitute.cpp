#include "policy/substitute.h"

#include <algorithm>
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
    // From the worst selected one up; candidates from the best down, each taken once.
    uint32_t candidate = n_used;
    for (uint32_t i = n_used; i-- > n_protected_;) {
        if (scores[order[i]] >= above) {
            break;
        }
        if (resident[order[i]] != Resident::none) {
            continue;
        }
        while (candidate < n_expert && scores[order[candidate]] >= below &&
               resident[order[candidate]] == Resident::none) {
            candidate++;
        }
        if (candidate >= n_expert || !(scores[order[candidate]] >= below)) {
            break;
        }
        std::swap(order[i], order[candidate++]);
    }
    std::stable_sort(order, order + n_used, [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
}

} // namespace hobbit
