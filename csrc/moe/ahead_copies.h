// Matrices of a prompt's next layer, on their way into the ring before that layer asks for them.
//
// A prompt wants nearly all experts of every layer, so nobody needs to know what the next router chooses: without this
// the link would idle from the last copy of a layer until the next router was computed.
//
// Only what lies in the host's memory is copied, and only once the layer at work has begun all of its own copies: it
// never waits for a buffer that is held here.
#pragma once

#include "moe/layer_view.h"
#include "tier/device_tier.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

// Of the steps of one context, hence of one thread.
class AheadCopies {
  public:
    // Whether a batch is so large that its next layers will want nearly every expert.
    static bool pays(const LayerView & view);

    // Begins copies for the layer after `view`'s, as far as buffers are free. REQUIRES: pays(view), and all copies of
    // `view`'s layer were begun.
    void pump(const LayerView & view);

    // Hands the copy of a matrix over to the step of its layer and returns its buffer; -1: it was not begun.
    int32_t take(ExpertKey key, uint32_t part_idx, TierStep & step);

    // Gives up all that was not taken, after the copies under way.
    void drop();

  private:
    struct Copy {
        uint32_t lease_idx  = 0;
        uint32_t part_idx   = 0;
        int32_t  buffer_idx = -1; // not begun, or taken
    };

    void plan(const LayerView & view);

    bool                      is_planned_ = false;
    std::unique_ptr<LoadStep> load_;   // keeps the experts where they are
    std::unique_ptr<TierStep> ring_;   // holds the buffers
    std::vector<Copy>         copies_; // in the order of use
    size_t                    next_copy_ = 0;
};

} // namespace hobbit
