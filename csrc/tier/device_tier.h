// The experts in a device's own memory: the tier above the loader's.
//
// Slots hold whole experts, the most used ones; a small ring of buffers takes single matrices that a layer needs only
// now. Batches borrow slots for a staging area, with room for all experts of one layer in their own order (staging.h).
// The tier does not read: what it copies lies in the host's memory, and its owner keeps it there by a `hold` until the
// copy is done.
//
// Locks: `mu_` guards all state; it is never held while copying, waiting for the device or dropping a hold.
#pragma once

#include "base/mutex.h"
#include "base/types.h"
#include "cache/copy_layout.h"
#include "cache/expert_cache.h"
#include "policy/eviction.h"
#include "tier/copy_queue.h"
#include "tier/tier_costs.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace hobbit {

// To begin a product takes a GPU as long as to multiply by a matrix of about this size.
inline constexpr uint64_t small_matrix_bytes = 8 << 20;

struct TierOptions {
    uint64_t expert_bytes     = 0;         // slots
    double   lo_share         = 0.5;       // of expert_bytes, for lo copies (if the model has any)
    uint64_t ring_bytes       = 256 << 20; // for copies of one use: room for at least three matrices, at most 64
    uint64_t small_part_bytes = small_matrix_bytes; // a model without larger matrices has spare slots instead of a ring
    uint64_t chunk_bytes      = 4 << 20;
    bool     has_staging      = true; // batches may borrow slots, if not all fits and there are no lo copies
    double   promotion_margin = 1.0;  // uses that a newcomer must be ahead of what would go: less is noise
    // The same for a hi copy of a small expert while a lo copy serves, which is on the link for a fraction of the time.
    double      mixed_promotion_margin = 2.0;
    std::string eviction               = "frequency";
};

// The buffers that a matrix can be copied into for one use.
struct OneUseBuffers {
    uint32_t first_idx    = 0;
    uint32_t n            = 0;
    uint32_t area_idx     = 0;
    uint64_t first_offset = 0; // in the area
    uint64_t stride       = 0;

    uint64_t offset(int32_t buffer_idx) const {
        return first_offset + (static_cast<uint64_t>(buffer_idx) - first_idx) * stride;
    }
};

// How the device's memory is divided: an area for each class of slots, one for the ring.
//
// Copies of one use go into the ring's buffers, which take any matrix. Where all matrices are small they go into spare
// slots behind those of their class instead: then one product takes what is resident and what was copied alike, and to
// begin a product is what small matrices cost.
//
// Batches borrow the last slots of a class, and those spare ones that a token does without, which follow them.
struct TierShape {
    std::vector<uint32_t> n_slots;          // [class]
    std::vector<uint32_t> n_spare;          // [class]; 0: there is a ring
    std::vector<uint32_t> n_kept;           // [class] of the spare slots, the last ones, which are not lent
    uint64_t              buffer_bytes = 0; // of the ring
    uint32_t              n_buffers    = 0;
    std::vector<uint32_t> n_staged;   // [class] slots that can be lent, spare ones among them; 0: none
    std::vector<uint64_t> area_bytes; // [class], then the ring

    bool     has_ring() const { return n_buffers > 0; }
    uint32_t ring_area() const { return static_cast<uint32_t>(n_slots.size()); }
    uint32_t n_one_use() const; // buffers for copies of one use
    // All buffers: those, then for each class one for each matrix that can be staged.
    uint32_t n_buffers_in_all() const;
    uint32_t first_staged_slot(uint32_t class_idx) const {
        return n_slots[class_idx] + n_spare[class_idx] - n_kept[class_idx] - n_staged[class_idx];
    }
    // The buffer that stands for the place of the matrix of expert 0; those of the others follow.
    int32_t first_staged_idx(uint32_t class_idx, uint32_t part_idx) const;
    // The buffer of the class's first spare slot. REQUIRES: there is no ring.
    uint32_t first_spare_idx(uint32_t class_idx, uint32_t part_idx) const;

    // REQUIRES: the key's layout is of the layouts that the shape was made for.
    OneUseBuffers one_use(const CopyLayouts & layouts, ExpertKey key, uint32_t part_idx) const;
};

// `largest_bytes`: room that the largest single matrix needs. `max_area_bytes`: of a device that has such a limit.
TierShape shape_tier(const CopyLayouts & layouts, uint64_t largest_bytes, uint64_t max_area_bytes,
                     const TierOptions & options);

// The least that slots must have for every layer to be staged, in exact mode.
uint64_t staged_bytes(const CopyLayouts & layouts);

struct TierStats {
    uint64_t  n_hits[n_precisions]         = {}; // an expert wanted by a layer step was on the device
    uint64_t  n_misses[n_precisions]       = {};
    uint64_t  n_promoted                   = 0; // experts that were given a slot
    uint64_t  n_evictions                  = 0; // for others, or since their slots were lent
    uint64_t  n_device_parts               = 0; // matrices of missing experts that were copied for one use ...
    uint64_t  n_ahead_parts                = 0; // ... of these, begun before their layer asked for them ...
    uint64_t  n_staged_parts               = 0; // ... of these, into the staging area ...
    uint64_t  n_host_parts                 = 0; // ... and that the host multiplied by
    uint64_t  wait_us                      = 0; // compute waited for a copy
    uint64_t  host_us                      = 0; // the host computed
    uint64_t  resident_bytes[n_precisions] = {};
    CopyStats copy;
};

class TierStep;

class DeviceTier {
  public:
    // All are borrowed for the tier's life; the areas of `memory` are as `shape` says. `n_expert` is [n_layers]. Throws
    // std::invalid_argument (unknown eviction policy).
    DeviceTier(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert, const TierShape & shape,
               DeviceMemory & memory, const TierOptions & options);
    // REQUIRES: no TierStep lives.
    ~DeviceTier();
    DeviceTier(const DeviceTier &)             = delete;
    DeviceTier & operator=(const DeviceTier &) = delete;

    const CopyLayouts & layouts() const { return layouts_; }
    const TierShape &   shape() const { return shape_; }
    OneUseBuffers one_use(ExpertKey key, uint32_t part_idx) const { return shape_.one_use(layouts_, key, part_idx); }
    // Whether a layer's copies of this precision can stay on the device.
    bool has_slots(uint16_t layer_idx, Precision precision) const {
        return layouts_.has(layer_idx, precision) &&
               shape_.n_slots[layouts_.of({layer_idx, 0, precision}).class_idx] > 0;
    }

    // Tells the eviction policy what a layer routed.
    void on_route(const Routing & routing);
    // The best copy of each expert that is on the device and complete. expert_idxs [n], resident [n].
    void find_resident(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * resident) const;

    // Pins those of `keys` that are on the device.
    std::unique_ptr<TierStep> begin(const std::vector<ExpertKey> & keys);

    // Copies an expert into a slot in the background if it is worth more than what would go. `parts` [part] is its data
    // in the host's memory, which `hold` keeps as it is. False: it is there or on its way, or not worth it, or enough
    // others are on their way. With `only_free` nothing goes for it, and no others are minded.
    bool promote(ExpertKey key, const std::byte * const * parts, std::shared_ptr<const void> hold,
                 bool only_free = false);
    // Waits for all promotions.
    void finish_promotions();

    // Whether a batch may be computed over slots of the layer's class (staging.h).
    bool can_stage(uint16_t layer_idx) const;
    // Where the experts of such a layer begin, in the area of its class.
    uint64_t staged_offset(uint16_t layer_idx) const;
    // Takes lent slots back, unless a pass uses them or a copy that was given up is under way to them; never waits.
    void take_back();
    // The most worthy expert whose slot was lent and that did not come back yet, taken from the list. None: there is no
    // other, slots are lent, or enough are on their way.
    std::optional<ExpertKey> next_displaced();

    // Layers all of whose experts lie in consecutive slots, in hi or else in lo, keep them from now on; held() tells
    // which. Their selected ids need not be known to the host. No slots are lent any more.
    void      fix_complete_layers();
    HeldSlots held(uint16_t layer_idx) const { return layer_idx < held_.size() ? held_[layer_idx] : HeldSlots(); }

    void      on_host_work(const HostWork & work);
    void      on_host_unused();
    TierCosts costs();
    TierStats stats() const;
    // [n_expert] of 0 absent, 1 being copied, 2 ready.
    std::vector<uint8_t> residency(uint16_t layer_idx, Precision precision) const;
    void                 check_invariants() const;

  private:
    friend class TierStep;
    friend class Staging;
    enum class SlotState : uint8_t { free, copying, ready };
    enum class BufferState : uint8_t { free, copying, ready, abandoned }; // the last: free once the copy is complete
    struct Promotion {
        SlotRef                     slot;
        ExpertKey                   key;
        uint32_t                    n_parts_left = 0; // 0: no promotion
        std::shared_ptr<const void> hold;
    };

    // Enough to keep the link busy while the next layers find out what they miss.
    static constexpr uint32_t max_promotions = 2;

    void        on_copied(uint64_t tag);
    bool        has_free_slot_for(ExpertKey key) const HOBBIT_REQUIRES(mu_);
    SlotState & state_of(SlotRef slot) HOBBIT_REQUIRES(mu_);
    SlotState   state_of(SlotRef slot) const HOBBIT_REQUIRES(mu_);
    // A free one of a class's buffers; none: -1.
    int32_t find_one_use(const OneUseBuffers & one_use, uint32_t class_idx) const HOBBIT_REQUIRES(mu_);
    bool    evict_lent(uint32_t class_idx) HOBBIT_REQUIRES(mu_);
    bool    any_lent_spare_in_use(uint32_t class_idx) const HOBBIT_REQUIRES(mu_);
    bool    any_staged_in_use() const HOBBIT_REQUIRES(mu_);

    HeldSlots find_complete(uint16_t layer_idx, Precision precision) const HOBBIT_REQUIRES(mu_);

    const CopyLayouts &    layouts_;
    const TierShape        shape_;
    const TierOptions      options_;
    std::vector<HeldSlots> held_; // [layer]; written before graphs are computed

    mutable Mutex                               mu_;
    CondVar                                     changed_; // a copy is complete, a buffer free or a slot unpinned
    std::unique_ptr<EvictionPolicy> policy_     HOBBIT_GUARDED_BY(mu_);
    ExpertCache cache_                          HOBBIT_GUARDED_BY(mu_);
    std::vector<std::vector<SlotState>> states_ HOBBIT_GUARDED_BY(mu_); // [class][slot]
    std::vector<BufferState> buffers_           HOBBIT_GUARDED_BY(mu_);
    std::vector<std::shared_ptr<const void>> buffer_holds_ HOBBIT_GUARDED_BY(mu_); // [buffer], of abandoned ones
    std::vector<Promotion> promotions_                     HOBBIT_GUARDED_BY(mu_); // slab
    std::vector<bool> is_lent_                             HOBBIT_GUARDED_BY(mu_); // [class]
    std::vector<ExpertKey> displaced_                      HOBBIT_GUARDED_BY(mu_); // by lending
    bool is_staging_held_                                  HOBBIT_GUARDED_BY(mu_) = false;
    uint64_t promoting_bytes_                              HOBBIT_GUARDED_BY(mu_) = 0;
    uint32_t n_promoting_                                  HOBBIT_GUARDED_BY(mu_) = 0;
    TierStats stats_ HOBBIT_GUARDED_BY(mu_); // n_evictions by lending alone; no copy
    CostMeter meter_ HOBBIT_GUARDED_BY(mu_);

    std::atomic<uint64_t> n_completed_{0}; // copies

    CopyQueue queue_; // last: its thread uses the others
};

// The experts of one layer for one batch, those on the device pinned until it is destroyed. Used by one thread.
class TierStep {
  public:
    TierStep(DeviceTier & tier, std::vector<SlotRef> slots, std::vector<ExpertKey> keys);
    ~TierStep(); // waits for its copies
    TierStep(const TierStep &)             = delete;
    TierStep & operator=(const TierStep &) = delete;

    // None: not on the device.
    SlotRef slot(uint32_t key_idx) const { return slots_[key_idx]; }
    // The keys that are not on the device, and of every key its place among them or -1.
    void find_missing(std::vector<uint32_t> & key_idxs, std::vector<int32_t> & places) const;

    // Begins to copy a matrix for one use and returns its buffer; -1 if none is free. With `wait`, waits for one that
    // other steps hold. REQUIRES with `wait`: this step holds none (or both might wait for each other). Without
    // `is_demand` it goes when no step waits for the link.
    int32_t begin_copy(ExpertKey key, uint32_t part_idx, const std::byte * src, bool wait, bool is_demand = true);
    // Begins to copy a matrix to its place in the staging area and returns that as a buffer; -1 if what was there may
    // still be read. With `wait`, waits for a copy that was given up. REQUIRES: a Staging that borrowed the slots; with
    // `wait`, no step holds it.
    int32_t begin_staged(ExpertKey key, uint32_t part_idx, const std::byte * src, bool wait);
    // Takes the places of an expert's matrices, for a copy that the tier does not see, and returns where they begin in
    // the area of their class. REQUIRES: as begin_staged() with `wait`.
    uint64_t claim_staged(ExpertKey key);
    // Gives back the places of a part. REQUIRES: what reads them was computed; wait_copy() of each.
    void release_staged(uint16_t layer_idx, uint32_t part_idx);
    // Takes over a buffer that another step holds; its copy is waited for now.
    void adopt(TierStep & from, int32_t buffer_idx);
    // Gives up a copy that has not begun, and its buffer. False: it has.
    bool cancel(int32_t buffer_idx);
    // Gives up all buffers without waiting: what was not begun is not copied. `hold` keeps the sources of what was.
    void     abandon(const std::shared_ptr<const void> & hold);
    bool     is_copied(int32_t buffer_idx) const;
    uint64_t n_bytes_left(int32_t buffer_idx) const {
        return tier_.queue_.n_bytes_left(static_cast<uint64_t>(buffer_idx));
    }
    void wait_copy(int32_t buffer_idx);
    // What reads the buffer was computed. REQUIRES: wait_copy().
    void     release(int32_t buffer_idx);
    uint32_t n_held() const { return static_cast<uint32_t>(held_.size()); }

  private:
    DeviceTier &           tier_;
    std::vector<SlotRef>   slots_; // [key]
    std::vector<ExpertKey> keys_;
    std::vector<int32_t>   held_; // buffers
};

} // namespace hobbit
