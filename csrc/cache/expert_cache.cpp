#include "cache/expert_cache.h"

#include "cache/invariant.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace hobbit {

namespace {

bool is_absent(SlotRef slot) { return !slot; }

} // namespace

ExpertCache::ExpertCache(const CopyLayouts & layouts, const std::vector<uint32_t> & n_slots, Score score)
    : layouts_(layouts), score_(std::move(score)) {
    assert(n_slots.size() == layouts.classes.size());
    pools_.resize(n_slots.size());
    for (size_t i = 0; i < n_slots.size(); i++) {
        pools_[i].slots.resize(n_slots[i]);
        pools_[i].n_open = n_slots[i];
        // Slot 0 on top: a cache that never fills up touches no more memory than it needs.
        for (uint32_t slot_idx = n_slots[i]; slot_idx-- > 0;) {
            pools_[i].free.push_back(static_cast<int32_t>(slot_idx));
        }
    }
    size_t n_copies = 0;
    for (int precision = 0; precision < n_precisions; precision++) {
        for (const CopyLayout & layout : layouts.layouts[precision]) {
            first_index_[precision].push_back(n_copies);
            n_copies += layout.n_expert;
        }
    }
    slot_of_.resize(n_copies);
}

size_t ExpertCache::index_of(ExpertKey key) const {
    assert(layouts_.has(key.layer_idx, key.precision) && key.expert_idx < layouts_.of(key).n_expert);
    return first_index_[static_cast<int>(key.precision)][key.layer_idx] + key.expert_idx;
}

ExpertCache::Slot & ExpertCache::at(SlotRef slot) {
    return pools_[static_cast<size_t>(slot.class_idx)].slots[static_cast<size_t>(slot.slot_idx)];
}

bool ExpertCache::fits_as_a_whole(uint32_t class_idx) const {
    return pools_[class_idx].slots.size() >= layouts_.classes[class_idx].n_copies;
}

int32_t ExpertCache::own_slot(ExpertKey key) const {
    const CopyLayout & layout = layouts_.of(key);
    return fits_as_a_whole(layout.class_idx) ? static_cast<int32_t>(layout.first_idx + key.expert_idx) : -1;
}

SlotRef ExpertCache::find(ExpertKey key) const { return slot_of_[index_of(key)]; }

int32_t ExpertCache::pick_victim(const Pool & pool, Admission admission, double & score) const {
    // A scan, not a heap: scores decay with time, and a few hundred of them cost less than one read of an expert.
    int32_t victim = -1, soft_victim = -1;
    double  soft_score = 0;
    for (size_t i = 0; i < pool.n_open; i++) {
        const Slot & slot = pool.slots[i];
        if (!slot.occupied || slot.n_pins > 0) {
            continue;
        }
        const double s          = score_(slot.key);
        int32_t &    best       = slot.is_soft_pinned ? soft_victim : victim;
        double &     best_score = slot.is_soft_pinned ? soft_score : score;
        if (best < 0 || s < best_score) {
            best       = static_cast<int32_t>(i);
            best_score = s;
        }
    }
    if (victim < 0 && admission != Admission::if_free) {
        score = soft_score;
        return soft_victim;
    }
    return victim;
}

// Its own slot, unless it has none or that is closed.
int32_t ExpertCache::take_free(ExpertKey key, Pool & pool) {
    if (const int32_t own = own_slot(key); own >= 0) {
        const auto found = std::find(pool.free.begin(), pool.free.end(), own);
        if (found != pool.free.end()) {
            std::swap(*found, pool.free.back());
        }
    }
    const int32_t slot_idx = pool.free.back();
    pool.free.pop_back();
    return slot_idx;
}

SlotRef ExpertCache::insert(ExpertKey key, Admission admission, double margin) {
    const size_t index = index_of(key);
    assert(is_absent(slot_of_[index]));
    SlotRef ref;
    ref.class_idx = static_cast<int32_t>(layouts_.of(key).class_idx);
    Pool & pool   = pools_[static_cast<size_t>(ref.class_idx)];
    if (pool.free.empty()) {
        double score = 0;
        ref.slot_idx = pick_victim(pool, admission, score);
        if (ref.slot_idx < 0 || (admission == Admission::if_better && score_(key) < score + margin)) {
            return {};
        }
        slot_of_[index_of(at(ref).key)] = {};
        n_evictions_++;
    } else {
        ref.slot_idx = take_free(key, pool);
    }
    at(ref)         = {key, 0, true, false};
    slot_of_[index] = ref;
    return ref;
}

void ExpertCache::erase(SlotRef slot) {
    Slot & s = at(slot);
    assert(s.occupied && s.n_pins == 0);
    slot_of_[index_of(s.key)] = {};
    s.occupied                = false;
    s.is_soft_pinned          = false;
    Pool & pool               = pools_[static_cast<size_t>(slot.class_idx)];
    if (static_cast<uint32_t>(slot.slot_idx) < pool.n_open) {
        pool.free.push_back(slot.slot_idx);
    }
}

void ExpertCache::close(int32_t class_idx, uint32_t first) {
    Pool & pool          = pools_[static_cast<size_t>(class_idx)];
    pool.n_open          = std::min(pool.n_open, first);
    const auto is_closed = [&](int32_t slot_idx) { return static_cast<uint32_t>(slot_idx) >= pool.n_open; };
    pool.free.erase(std::remove_if(pool.free.begin(), pool.free.end(), is_closed), pool.free.end());
}

void ExpertCache::open(int32_t class_idx) {
    Pool &               pool = pools_[static_cast<size_t>(class_idx)];
    std::vector<int32_t> free; // below the others: what is closed again next displaces the less
    for (auto slot_idx = static_cast<uint32_t>(pool.slots.size()); slot_idx-- > pool.n_open;) {
        if (!pool.slots[slot_idx].occupied) {
            free.push_back(static_cast<int32_t>(slot_idx));
        }
    }
    pool.free.insert(pool.free.begin(), free.begin(), free.end());
    pool.n_open = static_cast<uint32_t>(pool.slots.size());
}

void ExpertCache::pin(SlotRef slot) {
    assert(at(slot).occupied);
    at(slot).n_pins++;
}

void ExpertCache::unpin(SlotRef slot) {
    assert(at(slot).n_pins > 0);
    at(slot).n_pins--;
}

void ExpertCache::soft_pin(SlotRef slot) {
    Slot & s = at(slot);
    assert(s.occupied);
    if (!s.is_soft_pinned) {
        s.is_soft_pinned = true;
        soft_pins_.push_back(slot);
    }
}

bool ExpertCache::is_soft_pinned(SlotRef slot) const {
    return pools_[static_cast<size_t>(slot.class_idx)].slots[static_cast<size_t>(slot.slot_idx)].is_soft_pinned;
}

void ExpertCache::clear_soft_pins() {
    for (const SlotRef slot : soft_pins_) {
        at(slot).is_soft_pinned = false;
    }
    soft_pins_.clear();
}

void ExpertCache::clear_soft_pins(uint16_t layer_idx) {
    for (const SlotRef slot : soft_pins_) {
        Slot & s         = at(slot);
        s.is_soft_pinned = s.is_soft_pinned && s.key.layer_idx != layer_idx;
    }
    const auto is_over = [this](SlotRef slot) { return !at(slot).is_soft_pinned; };
    soft_pins_.erase(std::remove_if(soft_pins_.begin(), soft_pins_.end(), is_over), soft_pins_.end());
}

ExpertKey ExpertCache::key_of(SlotRef slot) const {
    const Slot & s = pools_[static_cast<size_t>(slot.class_idx)].slots[static_cast<size_t>(slot.slot_idx)];
    assert(s.occupied);
    return s.key;
}

uint32_t ExpertCache::n_pins(SlotRef slot) const {
    return pools_[static_cast<size_t>(slot.class_idx)].slots[static_cast<size_t>(slot.slot_idx)].n_pins;
}

bool ExpertCache::is_occupied(SlotRef slot) const {
    return pools_[static_cast<size_t>(slot.class_idx)].slots[static_cast<size_t>(slot.slot_idx)].occupied;
}

uint32_t ExpertCache::n_open(int32_t class_idx) const { return pools_[static_cast<size_t>(class_idx)].n_open; }

uint32_t ExpertCache::n_slots(int32_t class_idx) const {
    return static_cast<uint32_t>(pools_[static_cast<size_t>(class_idx)].slots.size());
}

uint32_t ExpertCache::n_free(int32_t class_idx) const {
    return static_cast<uint32_t>(pools_[static_cast<size_t>(class_idx)].free.size());
}

void ExpertCache::check_invariants() const {
    size_t n_occupied = 0;
    for (size_t c = 0; c < pools_.size(); c++) {
        const Pool &      pool = pools_[c];
        std::vector<bool> is_free(pool.slots.size(), false);
        for (const int32_t slot_idx : pool.free) {
            check_invariant(slot_idx >= 0 && static_cast<size_t>(slot_idx) < pool.slots.size(),
                            "a free slot's index is in its pool");
            check_invariant(!is_free[static_cast<size_t>(slot_idx)], "a slot is on the free list once");
            check_invariant(static_cast<size_t>(slot_idx) < pool.n_open, "a closed slot is not on the free list");
            is_free[static_cast<size_t>(slot_idx)] = true;
        }
        for (size_t i = 0; i < pool.slots.size(); i++) {
            const Slot & slot = pool.slots[i];
            check_invariant(slot.occupied ? !is_free[i] : is_free[i] || i >= pool.n_open,
                            "a slot is either occupied or free, or closed");
            if (!slot.occupied) {
                check_invariant(slot.n_pins == 0 && !slot.is_soft_pinned, "a free slot is not pinned");
                continue;
            }
            const SlotRef ref{static_cast<int32_t>(c), static_cast<int32_t>(i)};
            n_occupied++;
            check_invariant(!slot.is_soft_pinned ||
                                std::find(soft_pins_.begin(), soft_pins_.end(), ref) != soft_pins_.end(),
                            "a soft pin ends with the others");
            check_invariant(layouts_.of(slot.key).class_idx == c, "a copy is in a slot of its own class");
            check_invariant(slot_of_[index_of(slot.key)] == ref, "an occupied slot is found by its key");
        }
    }
    size_t n_mapped = 0;
    for (const SlotRef & slot : slot_of_) {
        n_mapped += is_absent(slot) ? 0 : 1;
    }
    check_invariant(n_mapped == n_occupied, "as many copies are mapped as slots are occupied");
}

} // namespace hobbit
