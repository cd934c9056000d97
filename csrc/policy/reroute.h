// Lets experts of little weight fall to resident ones.
#pragma once

#include "policy/router_filter.h"

namespace hobbit {

class Reroute final : public RouterFilter {
  public:
    Reroute(float tolerance, uint32_t n_protected, float fall)
        : tolerance_(tolerance), n_protected_(n_protected), fall_(fall) {}

    void select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                int32_t * order) override;

  private:
    const float    tolerance_; // of layer 0
    const uint32_t n_protected_;
    const float    fall_; // from layer to layer
};

} // namespace hobbit
