#include "policy/least_stale.h"

namespace hobbit {

double LeastStale::score(ExpertKey key) const {
    const bool   is_current = key.layer_idx <= records_.layer_idx() && records_.in_last_pass(key);
    const double freshness  = 1.0 / (2.0 + static_cast<double>(records_.age(key)));
    return (is_current ? static_cast<double>(records_.n_layers()) : 0.0) + static_cast<double>(key.layer_idx) +
           freshness;
}

} // namespace hobbit
