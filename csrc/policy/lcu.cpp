#include "policy/lcu.h"

namespace hobbit {

double Lcu::score(ExpertKey key) const {
    const SequenceRecords::Record & record = records_.of(key);
    const double cost = static_cast<double>(record.n_hi) + lo_cost_ * static_cast<double>(record.n_lo);
    return cost / records_.n_tokens() + (records_.in_last_pass(key) ? 1.0 / (records_.layers_ahead(key) + 0.1) : 0.0);
}

} // namespace hobbit
