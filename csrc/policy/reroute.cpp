#include "policy/reroute.h"

#include <algorithm>
#include <cmath>

namespace hobbit {

void Reroute::select(uint16_t, const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                     int32_t * order) {
    if (n_used >= n_expert || tolerance_ <= 0.0f) {
        return;
    }
    const double best  = scores[order[0]];
    double       total = 0;
    for (uint32_t i = 0; i < n_used; ++i) {
        total += std::exp(scores[order[i]] - best);
    }
    // Ratios of weights are differences of scores.
    const double limit = std::log(static_cast<double>(tolerance_)) + std::log(total) + best;
    // From the worst selected one up; candidates from the best down, each taken once: the cost only grows.
    uint32_t candidate = n_used;
    for (uint32_t i = n_used; i-- > n_protected_;) {
        if (resident[order[i]] != Resident::none) {
            continue;
        }
        while (candidate < n_expert && resident[order[candidate]] == Resident::none) {
            candidate++;
        }
        if (candidate >= n_expert || !(2.0 * scores[order[i]] - scores[order[candidate]] < limit)) {
            break;
        }
        std::swap(order[i], order[candidate++]);
    }
    std::stable_sort(order, order + n_used, [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
}

} // namespace hobbit
