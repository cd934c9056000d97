// Which copies are resident, in which slot, and which of them may go. No bytes, no IO, no locks: its owner (the
// loader) calls it under its own mutex.
#pragma once

#include "base/types.h"
#include "cache/copy_layout.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace hobbit {

// A slot of a size class; class_idx < 0 is "none".
struct SlotRef {
    int32_t class_idx = -1;
    int32_t slot_idx  = -1;

    explicit operator bool() const { return class_idx >= 0; }
    bool     operator==(const SlotRef & o) const { return class_idx == o.class_idx && slot_idx == o.slot_idx; }
};

enum class Admission : uint8_t {
    always,    // evict the copy with the lowest score
    if_better, // ... unless the newcomer's own score is lower still (a prompt must not flush what decode needs)
    if_free,   // ... but none that is pinned softly: a guess does not displace another one
};

class ExpertCache {
  public:
    using Score = std::function<double(ExpertKey)>;

    // n_slots is [layouts.classes.size()]. `score` gives a copy's worth; the lowest unpinned one is evicted.
    ExpertCache(const CopyLayouts & layouts, const std::vector<uint32_t> & n_slots, Score score);

    // Whether a class has a slot for every copy.
    bool fits_as_a_whole(uint32_t class_idx) const;
    // There each copy has its own slot, in the order of layers and experts; -1: it has none.
    int32_t own_slot(ExpertKey key) const;

    // The slot of a copy, or none.
    SlotRef find(ExpertKey key) const;

    // Gives an absent copy a slot of its class, evicting if none is free; none if everything is pinned or better. With
    // Admission::if_better the newcomer must be worth `margin` more than what would go.
    SlotRef insert(ExpertKey key, Admission admission, double margin = 0.0);

    // Takes a copy out. REQUIRES: it is not pinned.
    void erase(SlotRef slot);

    // Slots of a class from `first` on are given to nobody, and what they hold goes for nobody, until open().
    void close(int32_t class_idx, uint32_t first);
    void open(int32_t class_idx);

    // Counted: a pinned copy is neither evicted nor erased.
    void pin(SlotRef slot);
    void unpin(SlotRef slot);

    // Until clear_soft_pins(): the copy will probably be wanted, so it is evicted only where nothing else is left.
    void soft_pin(SlotRef slot);
    bool is_soft_pinned(SlotRef slot) const;
    void clear_soft_pins();
    void clear_soft_pins(uint16_t layer_idx); // of that layer's copies

    ExpertKey key_of(SlotRef slot) const;
    uint32_t  n_pins(SlotRef slot) const;
    bool      is_occupied(SlotRef slot) const;
    uint32_t  n_slots(int32_t class_idx) const;
    uint32_t  n_open(int32_t class_idx) const;
    uint32_t  n_free(int32_t class_idx) const;
    uint64_t  n_evictions() const { return n_evictions_; }

    // Recomputes every counter and both directions of the map; aborts with a message on a difference.
    void check_invariants() const;

  private:
    struct Slot {
        ExpertKey key;
        uint32_t  n_pins         = 0;
        bool      occupied       = false;
        bool      is_soft_pinned = false;
    };
    struct Pool {
        std::vector<Slot>    slots;
        std::vector<int32_t> free;       // stack of free slot indices
        uint32_t             n_open = 0; // those behind are closed
    };

    size_t  index_of(ExpertKey key) const;
    Slot &  at(SlotRef slot);
    int32_t take_free(ExpertKey key, Pool & pool);
    int32_t pick_victim(const Pool & pool, Admission admission, double & score) const;

    const CopyLayouts &  layouts_;
    Score                score_;
    std::vector<Pool>    pools_;                     // [class]
    std::vector<size_t>  first_index_[n_precisions]; // [layer] into slot_of_
    std::vector<SlotRef> slot_of_;                   // [copy]
    std::vector<SlotRef> soft_pins_;                 // a superset: slots may have changed hands since
    uint64_t             n_evictions_ = 0;
};

} // namespace hobbit
