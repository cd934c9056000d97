// How a layer's missing matrices pass from the loader to who multiplies by them: copies into buffers for one use, and
// the host's share, in the order of use.
//
// Of a ring, a later part takes no buffer before all of an earlier one have theirs: they are given back in that order.
//
// Two kinds of buffers are scarce, the loader's stream buffers and the device's for one use, and a matrix on its way to
// the device holds one of each. Why steps of any number of contexts cannot wait for each other, however few there are:
//  - Before it waits for a streamed matrix, a step gives back every stream buffer that it can: it has used all matrices
//    that have arrived, the host's and those that were copied. This is what loader_impl.h asks of a caller, and what
//    makes wait_for_drive() the only place to wait at, for the host's share as well.
//  - It holds no buffer of the device then either, not even for later parts or the next layer.
//  - So who waits for a buffer of the device, with stream buffers in its hands, waits for steps that go on to give one
//    back without the drive.
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
        host_parts_.clear();
        n_begun_ = 0;
    }

    // To be called in the order of use: part by part.
    void add(uint32_t key_idx, uint32_t part_idx) { copies_.push_back({key_idx, part_idx}); }
    void add_for_host(uint32_t key_idx, uint32_t part_idx) { host_parts_.push_back({key_idx, part_idx}); }
    // Takes over what was begun ahead.
    void take(AheadCopies & ahead);

    // Begins the copies that can begin.
    void pump();
    bool all_begun() const { return n_begun_ == copies_.size(); }

    // Whether the layer will wait for a matrix that is streamed: until then it keeps no buffer of the device longer
    // than it must.
    bool awaits_stream() const { return first_awaited_rank() < view_->part_order.size(); }

    // Whether copies of these parts were not taken by take_arrived() yet.
    bool any_left(const std::vector<uint32_t> & part_idxs) const;
    // ... and begun.
    bool any_under_way(const std::vector<uint32_t> & part_idxs) const;
    // Whether none of them is to be waited for.
    bool have_arrived(const std::vector<uint32_t> & part_idxs) const;
    // Waits for copies of these parts that were begun: for all if all were begun, else for one, and of a prompt's,
    // which are many, for half.
    void wait(const std::vector<uint32_t> & part_idxs);

    bool any_left_for_host(const std::vector<uint32_t> & part_idxs) const;
    // The host's matrices of a part that are there, by key; they are its to multiply by, and to be released.
    void take_loaded_for_host(uint32_t part_idx, std::vector<uint32_t> & key_idxs);
    // Waits until the drive has brought one of what these parts still lack, to be copied or for the host. REQUIRES:
    // they lack some; no copy of them is under way, and what came for the host was used and released.
    Status wait_for_drive(const std::vector<uint32_t> & part_idxs);
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

    struct HostPart {
        uint32_t key_idx  = 0;
        uint32_t part_idx = 0;
    };

    bool     begin_copy(Copy & copy, bool wait);
    void     give_back_later(const std::vector<uint32_t> & part_idxs);
    size_t   rank_of(uint32_t part_idx) const;
    size_t   first_awaited_rank() const;
    bool     is_streamed(uint32_t key_idx) const { return !step_->loaded().leases()[lease_idx(key_idx)].slot; }
    bool     is_loaded(uint32_t key_idx, uint32_t part_idx) const;
    uint32_t lease_idx(uint32_t key_idx) const { return static_cast<uint32_t>((*lease_idxs_)[key_idx]); }

    const LayerView *            view_       = nullptr;
    LayerStep *                  step_       = nullptr;
    TierStep *                   tier_step_  = nullptr;
    const std::vector<int32_t> * lease_idxs_ = nullptr;
    std::vector<Copy>            copies_;     // in the order of use
    std::vector<HostPart>        host_parts_; // likewise; not taken yet
    size_t                       n_begun_      = 0;
    uint64_t                     n_ever_begun_ = 0;
    std::vector<uint32_t>        lease_wanted_, lease_arrived_;

    std::vector<std::pair<uint64_t, int32_t>> under_way_; // begin_idx, buffer_idx
};

} // namespace hobbit
