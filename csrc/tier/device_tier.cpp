#include "tier/device_tier.h"

#include "cache/invariant.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace hobbit {

namespace {

constexpr uint64_t max_promoted_bytes = 64 << 20; // or this much, if experts are small

constexpr uint64_t promotion_tag = uint64_t{1} << 63; // the rest is an index; without it, a buffer's

} // namespace

DeviceTier::DeviceTier(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert, const TierShape & shape,
                       DeviceMemory & memory, const TierOptions & options)
    : layouts_(layouts), shape_(shape), options_(options),
      policy_(make_eviction_policy({options.eviction, {}}, {n_expert, 0.25})),
      cache_(layouts, shape.n_slots, [this](ExpertKey key) { return policy_->score(key); }),
      buffers_(shape.n_buffers_in_all(), BufferState::free), buffer_holds_(shape.n_buffers_in_all()),
      queue_(memory, options.chunk_bytes, [this](uint64_t tag) { on_copied(tag); }) {
    MutexLock lock(mu_);
    is_lent_.assign(shape.n_slots.size(), false);
    for (const uint32_t n : shape.n_slots) {
        states_.emplace_back(n, SlotState::free);
    }
}

DeviceTier::~DeviceTier() {
    finish_promotions();
    MutexLock lock(mu_);
    while (std::find(buffers_.begin(), buffers_.end(), BufferState::abandoned) != buffers_.end()) {
        changed_.wait(mu_);
    }
}

DeviceTier::SlotState & DeviceTier::state_of(SlotRef slot) {
    return states_[static_cast<size_t>(slot.class_idx)][static_cast<size_t>(slot.slot_idx)];
}

DeviceTier::SlotState DeviceTier::state_of(SlotRef slot) const {
    return states_[static_cast<size_t>(slot.class_idx)][static_cast<size_t>(slot.slot_idx)];
}

void DeviceTier::on_route(const Routing & routing) {
    MutexLock lock(mu_);
    policy_->on_route(routing);
}

void DeviceTier::find_resident(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * resident) const {
    std::fill(resident, resident + n, Resident::none);
    MutexLock lock(mu_);
    for (const Precision precision : {Precision::lo, Precision::hi}) {
        for (uint32_t i = 0; layouts_.has(layer_idx, precision) && i < n; i++) {
            const SlotRef slot = cache_.find({layer_idx, static_cast<uint16_t>(expert_idxs[i]), precision});
            if (slot && state_of(slot) == SlotState::ready) {
                resident[i] = precision == Precision::hi ? Resident::hi : Resident::lo;
            }
        }
    }
}

std::unique_ptr<TierStep> DeviceTier::begin(const std::vector<ExpertKey> & keys) {
    std::vector<SlotRef> slots(keys.size());
    {
        MutexLock lock(mu_);
        for (size_t i = 0; i < keys.size(); i++) {
            const SlotRef slot = cache_.find(keys[i]);
            const bool    hit  = slot && state_of(slot) == SlotState::ready;
            if (hit) {
                cache_.pin(slot);
                slots[i] = slot;
            }
            (hit ? stats_.n_hits : stats_.n_misses)[static_cast<int>(keys[i].precision)]++;
        }
    }
    return std::make_unique<TierStep>(*this, std::move(slots), keys);
}

bool DeviceTier::promote(ExpertKey key, const std::byte * const * parts, std::shared_ptr<const void> hold,
                         bool only_free) {
    const bool is_mixed =
        key.precision == Precision::hi && !shape_.has_ring() && layouts_.has(key.layer_idx, Precision::lo);
    std::vector<CopyJob> jobs;
    {
        MutexLock lock(mu_);
        if (cache_.find(key)) {
            return false;
        }
        if (only_free ? !has_free_slot_for(key)
                      : n_promoting_ >= max_promotions && promoting_bytes_ >= max_promoted_bytes) {
            return false;
        }
        const SlotRef slot = cache_.insert(key, Admission::if_better,
                                           is_mixed ? options_.mixed_promotion_margin : options_.promotion_margin);
        if (!slot) {
            return false;
        }
        const uint64_t n_bytes  = layouts_.of(key).n_bytes();
        uint64_t &     resident = stats_.resident_bytes[static_cast<int>(key.precision)];
        resident -= state_of(slot) == SlotState::ready ? n_bytes : 0; // the evicted one's: the same class and precision
        state_of(slot) = SlotState::copying;
        cache_.pin(slot); // until it is complete
        stats_.n_promoted++;
        n_promoting_++;
        promoting_bytes_ += n_bytes;

        const auto unused = std::find_if(promotions_.begin(), promotions_.end(),
                                         [](const Promotion & p) { return p.n_parts_left == 0; });
        const auto idx    = static_cast<size_t>(unused - promotions_.begin());
        if (unused == promotions_.end()) {
            promotions_.emplace_back();
        }
        const auto & layout = layouts_.of(key).parts;
        promotions_[idx]    = {slot, key, static_cast<uint32_t>(layout.size()), std::move(hold)};
        const uint64_t base =
            static_cast<uint64_t>(slot.slot_idx) * layouts_.classes[static_cast<size_t>(slot.class_idx)].slot_bytes;
        for (size_t i = 0; i < layout.size(); i++) {
            jobs.push_back({promotion_tag | idx, static_cast<uint32_t>(slot.class_idx), base + layout[i].data_offset,
                            parts[i], layout[i].n_bytes});
        }
    }
    for (const CopyJob & job : jobs) {
        queue_.push(job, false);
    }
    return true;
}

// Every layer has an equal share of the slots that are given away freely: whoever comes first would take them all, and
// the link would idle while the first layers are computed, and be short in the last.
bool DeviceTier::has_free_slot_for(ExpertKey key) const {
    const CopyLayout & layout = layouts_.of(key);
    if (cache_.n_free(static_cast<int32_t>(layout.class_idx)) == 0) {
        return false;
    }
    const SizeClass & of_class = layouts_.classes[layout.class_idx];
    const uint64_t    n_layers = of_class.n_copies / layout.n_expert;
    const uint64_t    n_open   = cache_.n_open(static_cast<int32_t>(layout.class_idx));
    const uint64_t    n_shared = (n_open + n_layers - 1) / n_layers;
    uint64_t          n_here   = 0;
    for (uint16_t i = 0; i < layout.n_expert; i++) {
        n_here += cache_.find({key.layer_idx, i, key.precision}) ? 1 : 0;
    }
    return n_here < n_shared;
}

void DeviceTier::on_copied(uint64_t tag) {
    Promotion                   done;
    std::shared_ptr<const void> given_up;
    {
        MutexLock lock(mu_);
        if ((tag & promotion_tag) == 0) {
            given_up      = std::move(buffer_holds_[tag]);
            buffers_[tag] = buffers_[tag] == BufferState::abandoned ? BufferState::free : BufferState::ready;
        } else if (--promotions_[tag & ~promotion_tag].n_parts_left == 0) {
            done = std::move(promotions_[tag & ~promotion_tag]);
        }
    }
    given_up.reset(); // without the lock, as below
    if (done.slot) {
        // Without the lock, since it may call into the loader; and first, so that what a finished promotion held is
        // free.
        done.hold.reset();
        MutexLock lock(mu_);
        state_of(done.slot) = SlotState::ready;
        cache_.unpin(done.slot);
        n_promoting_--;
        promoting_bytes_ -= layouts_.of(done.key).n_bytes();
        stats_.resident_bytes[static_cast<int>(done.key.precision)] += layouts_.of(done.key).n_bytes();
    }
    n_completed_++;
    changed_.notify_all();
}

void DeviceTier::finish_promotions() {
    MutexLock lock(mu_);
    while (n_promoting_ > 0) {
        changed_.wait(mu_);
    }
}

HeldSlots DeviceTier::find_complete(uint16_t layer_idx, Precision precision) const {
    if (!layouts_.has(layer_idx, precision)) {
        return {};
    }
    const SlotRef first    = cache_.find({layer_idx, 0, precision});
    const auto    n_expert = static_cast<uint16_t>(layouts_.of({layer_idx, 0, precision}).n_expert);
    for (uint16_t expert_idx = 0; expert_idx < n_expert; expert_idx++) {
        const SlotRef slot = cache_.find({layer_idx, expert_idx, precision});
        if (!slot || state_of(slot) != SlotState::ready || slot.slot_idx != first.slot_idx + expert_idx) {
            return {};
        }
    }
    return {first.slot_idx, precision};
}

void DeviceTier::fix_complete_layers() {
    MutexLock lock(mu_);
    held_.resize(layouts_.layouts[static_cast<int>(Precision::hi)].size());
    for (uint16_t layer_idx = 0; layer_idx < held_.size(); layer_idx++) {
        HeldSlots & held = held_[layer_idx];
        for (const Precision precision : {Precision::hi, Precision::lo}) {
            if (held) {
                break;
            }
            held = find_complete(layer_idx, precision);
            for (uint16_t i = 0; held && i < layouts_.of({layer_idx, 0, precision}).n_expert; i++) {
                cache_.pin(cache_.find({layer_idx, i, precision}));
            }
        }
    }
}

void DeviceTier::on_host_work(const HostWork & work) {
    MutexLock lock(mu_);
    meter_.on_host_work(work);
    stats_.n_host_parts += work.n_parts;
    stats_.host_us += static_cast<uint64_t>(work.duration_us);
}

void DeviceTier::on_host_unused() {
    MutexLock lock(mu_);
    meter_.on_host_unused();
}

TierCosts DeviceTier::costs() {
    const CopyStats copied    = queue_.stats();
    const uint64_t  under_way = queue_.n_bytes_under_way();
    MutexLock       lock(mu_);
    meter_.on_copied(copied.demand_bytes + copied.background_bytes, copied.busy_us);
    TierCosts costs     = meter_.costs();
    costs.copy_start_us = static_cast<double>(under_way) * costs.copy_us_per_byte;
    return costs;
}

TierStats DeviceTier::stats() const {
    const CopyStats copied = queue_.stats();
    MutexLock       lock(mu_);
    TierStats       stats = stats_;
    stats.n_evictions += cache_.n_evictions();
    stats.copy = copied;
    return stats;
}

std::vector<uint8_t> DeviceTier::residency(uint16_t layer_idx, Precision precision) const {
    if (!layouts_.has(layer_idx, precision)) {
        return {};
    }
    MutexLock            lock(mu_);
    std::vector<uint8_t> out(layouts_.of({layer_idx, 0, precision}).n_expert, 0);
    for (size_t i = 0; i < out.size(); i++) {
        const SlotRef slot = cache_.find({layer_idx, static_cast<uint16_t>(i), precision});
        out[i]             = slot ? (state_of(slot) == SlotState::ready ? 2 : 1) : 0;
    }
    return out;
}

void DeviceTier::check_invariants() const {
    MutexLock lock(mu_);
    cache_.check_invariants();
    uint32_t n_copying              = 0;
    uint64_t resident[n_precisions] = {};
    for (size_t c = 0; c < states_.size(); c++) {
        for (size_t i = 0; i < states_[c].size(); i++) {
            const SlotRef slot{static_cast<int32_t>(c), static_cast<int32_t>(i)};
            if (states_[c][i] == SlotState::free) {
                continue;
            }
            const ExpertKey key = cache_.key_of(slot);
            check_invariant(cache_.find(key) == slot, "a slot that is not free is found by its key");
            n_copying += states_[c][i] == SlotState::copying ? 1 : 0;
            check_invariant(states_[c][i] == SlotState::ready || cache_.n_pins(slot) > 0,
                            "a slot being copied is pinned");
            resident[static_cast<int>(key.precision)] +=
                states_[c][i] == SlotState::ready ? layouts_.of(key).n_bytes() : 0;
        }
    }
    check_invariant(n_copying == n_promoting_, "each slot being copied has its promotion");
    for (int p = 0; p < n_precisions; p++) {
        check_invariant(resident[p] == stats_.resident_bytes[p], "resident bytes are those of the ready slots");
    }
}

} // namespace hobbit
