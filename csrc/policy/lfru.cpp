#include "policy/lfru.h"

namespace hobbit {

double Lfru::score(ExpertKey key) const {
    return static_cast<double>(records_.of(key).n_uses) / (1.0 + static_cast<double>(records_.age(key)));
}

} // namespace hobbit
