// What router filters share that give single experts up for resident ones.
#pragma once

#include "policy/precision.h"

#include <algorithm>
#include <cstdint>

namespace hobbit {

// Replaces missing selected experts but the n_protected best, from the worst up, by resident ones that were not
// selected, from the best down, for as long as `may(missing, resident)` holds, which must get stricter on the way.
// Arguments and what becomes of `order` as of RouterFilter::select(). REQUIRES: n_used < n_expert.
template <typename May>
void replace_missing(const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                     uint32_t n_protected, int32_t * order, const May & may) {
    uint32_t candidate = n_used;
    for (uint32_t i = n_used; i-- > n_protected;) {
        if (resident[order[i]] != Resident::none) {
            continue;
        }
        while (candidate < n_expert && resident[order[candidate]] == Resident::none) {
            candidate++;
        }
        if (candidate >= n_expert || !may(order[i], order[candidate])) {
            break;
        }
        std::swap(order[i], order[candidate++]);
    }
    std::stable_sort(order, order + n_used, [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
}

} // namespace hobbit
