// Asks a precision policy about one token, whatever the order in which the router gave its experts.
#pragma once

#include "policy/precision.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class TokenChooser {
  public:
    // weights, resident and choices [n_used] are in the router's order; weights need not sum to 1.
    void choose(const PrecisionPolicy & policy, uint16_t layer_idx, const float * weights, const Resident * resident,
                uint32_t n_used, Choice * choices);

  private:
    std::vector<uint32_t> ranks_;
    std::vector<float>    weights_; // these three by descending weight
    std::vector<Resident> resident_;
    std::vector<Choice>   choices_;
};

} // namespace hobbit
