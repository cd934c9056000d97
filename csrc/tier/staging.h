// The staging area: room for all experts of one layer, each at its own place, as in the tensor that a model file has.
//
// Kernels for many rows divide their work by the size of the whole product, number of experts included. So a batch is
// multiplied by a tensor of all experts here, of which those that it selected are there.
//
// The area is borrowed: it is the last slots of the layer's class, and of its spare ones those that a token does
// without, so that other contexts' tokens need not wait. What the slots held is evicted and comes back once they are
// taken back, by the first pass that stages nothing (DeviceTier::take_back), since a long prompt is many passes.
#pragma once

#include "tier/device_tier.h"

#include <cstdint>

namespace hobbit {

// The right to borrow slots and to use them, which one pass has at a time.
class Staging {
  public:
    // Waits for the pass that has it. REQUIRES: nothing is held that such a pass could wait for.
    explicit Staging(DeviceTier & tier);
    ~Staging(); // The slots stay lent. REQUIRES: no step holds places in them
    Staging(const Staging &)             = delete;
    Staging & operator=(const Staging &) = delete;

    // To be called for each layer before its first copy. Waits for steps that use what the slots hold, for promotions
    // and copies into them, unless they are lent already. REQUIRES: can_stage(); where they are not lent, the caller
    // holds nothing that such a step could wait for: no pins, no buffers.
    void borrow(uint16_t layer_idx);

  private:
    DeviceTier & tier_;
};

} // namespace hobbit
