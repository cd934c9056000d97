// Matrices of the next layer, on their way into buffers for one use before that layer asks for them: without this the
// link would idle from the last copy of a layer until the next router was computed.
//
// A prompt wants nearly all experts of every layer, so nobody needs to know what the next router chooses. For a few
// tokens it is guessed (expect()).
//
// The buffers are those for one use or, of a batch that is multiplied in the staging area, the experts' places there.
//
// Only what lies in the host's memory is copied, and only once the layer at work has begun all of its own copies: it
// never waits for a buffer that is held here, nor for the link behind a guess.
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
    enum class Target { one_use, staging };

    explicit AheadCopies(Target target) : target_(target) {}

    // Whether a batch is so large that its next layers will want nearly every expert.
    static bool pays(const LayerView & view);

    // What the next layer will probably want, best first, whatever is resident. Returns those that lie neither on the
    // device nor in the host's memory.
    std::vector<ExpertKey> expect(const LayerView & view, const std::vector<ExpertKey> & keys);

    // Begins copies for the layer after `view`'s, as far as buffers are free. REQUIRES: all copies of `view`'s layer
    // were begun.
    void pump(const LayerView & view);

    // Gives up those guesses whose copies the link did not get to: what is missing is known now.
    void settle();
    // How many leading parts of an expert, in the order of use, were begun.
    uint32_t n_begun(ExpertKey key, const std::vector<uint32_t> & part_order) const;
    // Of these parts of it, bytes that the link was not given yet.
    uint64_t n_bytes_left(ExpertKey key) const;
    // Hands the copy of a matrix over to the step of its layer and returns its buffer; -1: it was not begun.
    int32_t take(ExpertKey key, uint32_t part_idx, TierStep & step);

    // Gives up all that was not taken.
    void drop();

  private:
    struct Copy {
        uint32_t lease_idx  = 0;
        uint32_t part_idx   = 0;
        int32_t  buffer_idx = -1; // not begun, given up or taken
        bool     is_begun   = false;
    };

    void plan_prompt(const LayerView & view);
    void plan(const LayerView & view, const std::vector<ExpertKey> & keys);
    // Begins one and returns its buffer, or -1.
    int32_t begin(const Copy & copy);

    const Target              target_;
    bool                      is_planned_ = false;
    bool                      is_guess_   = false;
    std::shared_ptr<LoadStep> load_;   // keeps the experts where they are
    std::unique_ptr<TierStep> ring_;   // holds the buffers, of the ring or spare slots
    std::vector<Copy>         copies_; // in the order of use
};

} // namespace hobbit
