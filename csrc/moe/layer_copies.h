// The copies of a layer's missing matrices into buffers for one use, in the order of use.
//
// Of a ring, a later part takes no buffer before all of an earlier one have theirs: they are given back in that order.
#pragma once

#include "moe/ahead_copies.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "tier/device_tier.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace hobbit {

class LayerCopies {
  public:
    // All are borrowed until end(); `lease_idxs` [key] of what is loaded. No copies yet.
    void begin(const LayerView & view, LayerStep & step, TierStep & tier_step, const std::vector<int32_t> & lease_idxs);
    void end() {
        copies_.clear();
        n_begun_ = 0;
    }

    // To be called in the order of use: part by part.
    void add(uint32_t key_idx, uint32_t part_idx) { copies_.push_back({key_idx, part_idx}); }
    // Takes over what was begun ahead.
    void take(AheadCopies & ahead);

    // Begins the copies that can begin.
    void pump();
    bool all_begun() const { return n_begun_ == copies_.size(); }

    // Whether copies of these parts were not taken by take_arrived() yet.
    bool any_left(const std::vector<uint32_t> & part_idxs) const;
    // Whether none of them is to be waited for.
    bool have_arrived(const std::vector<uint32_t> & part_idxs) const;
    // Waits for copies of these parts: for all if all were begun, else for one, and of a prompt's, which are many, for
    // half of those begun. May return without any.
    Status wait(const std::vector<uint32_t> & part_idxs);
    // The keys whose copy of a part has arrived since, with its buffer in `buffers` [key].
    void take_arrived(uint32_t part_idx, std::vector<uint32_t> & key_idxs, std::vector<int32_t> & buffers);

  private:
    struct Copy {
        uint32_t key_idx    = 0;
        uint32_t part_idx   = 0;
        int32_t  buffer_idx = -1; // not begun
        bool     used       = false;
        uint64_t begin_idx  = 0; // 0: begun ahead
    };

    bool     begin_copy(Copy & copy, bool wait);
    void     give_back_later(const std::vector<uint32_t> & part_idxs);
    bool     is_loaded(const Copy & copy) const;
    uint32_t lease_idx(const Copy & copy) const { return static_cast<uint32_t>((*lease_idxs_)[copy.key_idx]); }

    const LayerView *            view_       = nullptr;
    LayerStep *                  step_       = nullptr;
    TierStep *                   tier_step_  = nullptr;
    const std::vector<int32_t> * lease_idxs_ = nullptr;
    std::vector<Copy>            copies_; // in the order of use
    size_t                       n_begun_      = 0;
    uint64_t                     n_ever_begun_ = 0;
    std::vector<uint32_t>        lease_wanted_, lease_arrived_;

    std::vector<std::pair<uint64_t, int32_t>> under_way_; // begin_idx, buffer_idx
};

} // namespace hobbit
