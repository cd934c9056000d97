// The copies of a layer's missing matrices to their places in the staging area.
//
// Nothing but an earlier copy that was given up can be in their way, so each begins as soon as its matrix is in the
// host's memory, and what the drive brought only for this step is given back as soon as it was copied.
#pragma once

#include "moe/ahead_copies.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "tier/device_tier.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class StagedCopies {
  public:
    // Of the experts `missing`, key indices of `step`, whose leases of it are `lease_idxs` [key]; takes over what was
    // begun ahead. All are borrowed until end(). REQUIRES: step.load() of them.
    void begin(const LayerView & view, LayerStep & step, TierStep & tier_step, const std::vector<uint32_t> & missing,
               const std::vector<int32_t> & lease_idxs, AheadCopies & ahead);
    void end() { copies_.clear(); }

    // Begins the copies that can begin, gives back what was copied. True: all were begun.
    bool pump();
    // Whether all of a part have arrived. Those of a layer without missing experts have.
    bool has_arrived(uint32_t part_idx) const;
    // Waits for all of a part.
    Status wait(uint32_t part_idx);

  private:
    struct Copy {
        ExpertKey key;
        uint32_t  lease_idx  = 0;
        uint32_t  part_idx   = 0;
        int32_t   buffer_idx = -1;    // not begun
        bool      is_done    = false; // and the lease's part given back
    };

    bool give_back_copied();

    LayerStep *           step_      = nullptr;
    TierStep *            tier_step_ = nullptr;
    std::vector<Copy>     copies_; // in the order of use
    std::vector<uint32_t> lease_wanted_, lease_arrived_;
};

} // namespace hobbit
