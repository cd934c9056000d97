// Biases the router towards resident experts (Mixture of Cache-Conditional Experts, arXiv 2412.00099, "Cache-Prior").
#pragma once

#include "policy/router_filter.h"

namespace hobbit {

class CachePrior final : public RouterFilter {
  public:
    CachePrior(float strength, uint32_t n_protected) : strength_(strength), n_protected_(n_protected) {}

    void select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert, uint32_t n_used,
                int32_t * order) override;

  private:
    struct Spread {
        double   mean = 0; // of the largest score minus the smallest
        uint64_t n    = 0;
    };

    const float         strength_;
    const uint32_t      n_protected_;
    std::vector<Spread> spreads_; // [layer]
    std::vector<float>  biased_;
};

} // namespace hobbit
