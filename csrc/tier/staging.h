// The staging area: room for all experts of one layer, each at its own place, as in the tensor that a model file has.
//
// Kernels for many rows divide their work by the size of the whole product, number of experts included. So a batch is
// multiplied by a tensor of all experts here, of which those that it selected are there.
#pragma once

#include "tier/device_tier.h"

#include <cstdint>

namespace hobbit {

// The right to use the area, which one pass has at a time.
class Staging {
  public:
    // Waits for the pass that has it. REQUIRES: the area is there; nothing is held that such a pass could wait for.
    explicit Staging(DeviceTier & tier);
    ~Staging(); // REQUIRES: no step holds places in it
    Staging(const Staging &)             = delete;
    Staging & operator=(const Staging &) = delete;

    // To be called for each layer before its first copy: `class_idx` is that of its experts. True if experts of another
    // class lay there, whose bytes may be where paddings are now; then no copy is under way. REQUIRES: no step holds
    // places in it, or all are of this class.
    bool begin_layer(uint32_t class_idx);

  private:
    bool any_in_use() const HOBBIT_REQUIRES(tier_.mu_);

    DeviceTier & tier_;
};

} // namespace hobbit
