#include "policy/lfu.h"

namespace hobbit {

double Lfu::score(ExpertKey key) const { return static_cast<double>(records_.of(key).n_uses); }

} // namespace hobbit
