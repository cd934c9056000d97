#include "tier/device_tier.h"

#include "base/spin.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

namespace hobbit {

namespace {

constexpr int64_t max_spin_us = 200; // a chunk takes less on most links

} // namespace

TierStep::TierStep(DeviceTier & tier, std::vector<SlotRef> slots, std::vector<ExpertKey> keys)
    : tier_(tier), slots_(std::move(slots)), keys_(std::move(keys)) {}

TierStep::~TierStep() {
    while (!held_.empty()) { // only after a failure: the buffer must not be copied into once it is somebody else's
        wait_copy(held_.back());
        release(held_.back());
    }
    {
        MutexLock lock(tier_.mu_);
        for (const SlotRef slot : slots_) {
            if (slot) {
                tier_.cache_.unpin(slot);
            }
        }
    }
    tier_.changed_.notify_all();
}

void TierStep::find_missing(std::vector<uint32_t> & key_idxs, std::vector<int32_t> & places) const {
    key_idxs.clear();
    places.assign(slots_.size(), -1);
    for (uint32_t i = 0; i < slots_.size(); i++) {
        if (!slots_[i]) {
            places[i] = static_cast<int32_t>(key_idxs.size());
            key_idxs.push_back(i);
        }
    }
}

int32_t TierStep::begin_copy(ExpertKey key, uint32_t part_idx, const std::byte * src, bool wait, bool is_demand) {
    assert(!(wait && !held_.empty()));
    const CopyLayout &  layout     = tier_.layouts_.of(key);
    const OneUseBuffers one_use    = tier_.one_use(key, part_idx);
    int32_t             buffer_idx = -1;
    {
        MutexLock lock(tier_.mu_);
        while ((buffer_idx = tier_.find_one_use(one_use, layout.class_idx)) < 0) {
            if (!wait) {
                return -1;
            }
            tier_.changed_.wait(tier_.mu_);
        }
        tier_.buffers_[static_cast<size_t>(buffer_idx)] = DeviceTier::BufferState::copying;
        tier_.stats_.n_device_parts++;
    }
    held_.push_back(buffer_idx);
    tier_.queue_.push({static_cast<uint64_t>(buffer_idx), one_use.area_idx, one_use.offset(buffer_idx), src,
                       layout.parts[part_idx].n_bytes},
                      is_demand);
    return buffer_idx;
}

void TierStep::adopt(TierStep & from, int32_t buffer_idx) {
    from.held_.erase(std::find(from.held_.begin(), from.held_.end(), buffer_idx));
    held_.push_back(buffer_idx);
    tier_.queue_.raise(static_cast<uint64_t>(buffer_idx));
    MutexLock lock(tier_.mu_);
    tier_.stats_.n_ahead_parts++;
}

bool TierStep::cancel(int32_t buffer_idx) {
    if (!tier_.queue_.cancel(static_cast<uint64_t>(buffer_idx))) {
        return false;
    }
    release(buffer_idx);
    return true;
}

void TierStep::abandon(const std::shared_ptr<const void> & hold) {
    if (held_.empty()) {
        return;
    }
    for (const int32_t buffer_idx : held_) {
        const auto tag       = static_cast<uint64_t>(buffer_idx);
        const bool was_begun = !tier_.queue_.give_up(tag);
        MutexLock  lock(tier_.mu_);
        auto &     state = tier_.buffers_[tag];
        if (was_begun && state == DeviceTier::BufferState::copying) {
            state                    = DeviceTier::BufferState::abandoned;
            tier_.buffer_holds_[tag] = hold;
        } else {
            state = DeviceTier::BufferState::free;
        }
    }
    held_.clear();
    tier_.changed_.notify_all();
}

bool TierStep::is_copied(int32_t buffer_idx) const {
    MutexLock lock(tier_.mu_);
    return tier_.buffers_[static_cast<size_t>(buffer_idx)] == DeviceTier::BufferState::ready;
}

void TierStep::wait_copy(int32_t buffer_idx) {
    using Clock = std::chrono::steady_clock;
    if (is_copied(buffer_idx)) {
        return;
    }
    const Clock::time_point start = Clock::now();
    for (uint64_t n_seen = tier_.n_completed_; !is_copied(buffer_idx); n_seen = tier_.n_completed_) {
        spin_until([&] { return tier_.n_completed_ != n_seen; }, max_spin_us);
        if (tier_.n_completed_ == n_seen) {
            break;
        }
    }
    MutexLock lock(tier_.mu_);
    while (tier_.buffers_[static_cast<size_t>(buffer_idx)] != DeviceTier::BufferState::ready) {
        tier_.changed_.wait(tier_.mu_);
    }
    tier_.stats_.wait_us +=
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count());
}

void TierStep::release(int32_t buffer_idx) {
    held_.erase(std::find(held_.begin(), held_.end(), buffer_idx));
    {
        MutexLock lock(tier_.mu_);
        tier_.buffers_[static_cast<size_t>(buffer_idx)] = DeviceTier::BufferState::free;
    }
    tier_.changed_.notify_all();
}

} // namespace hobbit
