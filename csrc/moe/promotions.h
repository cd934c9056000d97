// Gives experts that a layer missed on the device a slot there, if they are worth it.
#pragma once

#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "moe/model_experts.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class Promotions {
  public:
    // `missing` are key indices of `step`, `lease_idxs` [key] says which of its leases has each; the layer has
    // `n_parts` matrices an expert. A long prompt's take only free slots: it needs nearly every expert once, which says
    // little of what decoding needs, and the link is what it waits for. REQUIRES: the step was computed or copied from.
    void promote(const ModelExperts & model, size_t n_parts, LayerStep & step, const std::vector<uint32_t> & missing,
                 const std::vector<int32_t> & lease_idxs);

    // Brings back what lay in slots that were lent to a batch, best first, a few at a time, as far as it lies in the
    // host's memory. What does not comes back when it is missed.
    static void restore(const ModelExperts & model);

  private:
    std::vector<ExpertKey> hi_keys_;
};

} // namespace hobbit
