// Lets near-ties at the edge of a token's selection fall to resident experts (after SMoE, arXiv 2508.18983).
#pragma once

#include "policy/router_filter.h"

namespace hobbit {

class Substitute final : public RouterFilter {
  public:
    Substitute(float margin, uint32_t n_protected) : margin_(margin), n_protected_(n_protected) {}

    void select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                int32_t * order) override;

  private:
    const float    margin_;
    const uint32_t n_protected_;
};

} // namespace hobbit
