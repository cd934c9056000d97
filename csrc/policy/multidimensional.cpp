#include "policy/multidimensional.h"

namespace hobbit {

double Multidimensional::score(ExpertKey key) const {
    const SequenceRecords::Record & record   = records_.of(key);
    const double                    n_tokens = records_.n_tokens();
    const double nearness = 1.0 - records_.layers_ahead(key) / static_cast<double>(records_.n_layers());
    return (lru_ * static_cast<double>(record.last) + lfu_ * static_cast<double>(record.n_uses) +
            lhu_ * static_cast<double>(record.n_hi)) /
               n_tokens +
           fld_ * nearness;
}

} // namespace hobbit
