#include "tier/staging.h"

#include <algorithm>

namespace hobbit {

Staging::Staging(DeviceTier & tier) : tier_(tier) {
    MutexLock lock(tier_.mu_);
    while (tier_.is_staging_held_) {
        tier_.changed_.wait(tier_.mu_);
    }
    tier_.is_staging_held_ = true;
}

Staging::~Staging() {
    {
        MutexLock lock(tier_.mu_);
        tier_.is_staging_held_ = false;
    }
    tier_.changed_.notify_all();
}

void Staging::borrow(uint16_t layer_idx) {
    const uint32_t class_idx = tier_.layouts_.of({layer_idx, 0, Precision::hi}).class_idx;
    MutexLock      lock(tier_.mu_);
    if (tier_.is_lent_[class_idx]) {
        return;
    }
    tier_.is_lent_[class_idx] = true;
    tier_.cache_.close(static_cast<int32_t>(class_idx), tier_.shape_.first_staged_slot(class_idx));
    while (!tier_.evict_lent(class_idx) || tier_.any_lent_spare_in_use(class_idx)) {
        tier_.changed_.wait(tier_.mu_);
    }
}

int32_t DeviceTier::find_one_use(const OneUseBuffers & one_use, uint32_t class_idx) const {
    const bool only_kept = !shape_.has_ring() && is_lent_[class_idx];
    const auto end       = buffers_.begin() + one_use.first_idx + one_use.n;
    const auto found     = std::find(end - (only_kept ? shape_.n_kept[class_idx] : one_use.n), end, BufferState::free);
    return found == end ? -1 : static_cast<int32_t>(found - buffers_.begin());
}

bool DeviceTier::any_lent_spare_in_use(uint32_t class_idx) const {
    const uint32_t n_lent = shape_.n_spare[class_idx] - shape_.n_kept[class_idx];
    const auto     in_use = [](BufferState state) { return state != BufferState::free; };
    for (uint32_t part_idx = 0; n_lent > 0 && part_idx < max_parts; part_idx++) {
        const auto first = buffers_.begin() + shape_.first_spare_idx(class_idx, part_idx);
        if (std::any_of(first, first + n_lent, in_use)) {
            return true;
        }
    }
    return false;
}

// Evicts what is not pinned. True: that was all.
bool DeviceTier::evict_lent(uint32_t class_idx) {
    bool was_all = true;
    for (uint32_t i = shape_.first_staged_slot(class_idx); i < shape_.n_slots[class_idx]; i++) {
        const SlotRef slot{static_cast<int32_t>(class_idx), static_cast<int32_t>(i)};
        if (!cache_.is_occupied(slot)) {
            continue;
        }
        if (cache_.n_pins(slot) > 0) {
            was_all = false;
            continue;
        }
        const ExpertKey key = cache_.key_of(slot);
        stats_.resident_bytes[static_cast<int>(key.precision)] -= layouts_.of(key).n_bytes();
        stats_.n_evictions++;
        state_of(slot) = SlotState::free;
        cache_.erase(slot);
        displaced_.push_back(key);
    }
    return was_all;
}

bool DeviceTier::any_staged_in_use() const {
    const auto first = buffers_.begin() + shape_.n_one_use();
    return std::any_of(first, buffers_.end(), [](BufferState state) { return state != BufferState::free; });
}

bool DeviceTier::can_stage(uint16_t layer_idx) const {
    return held_.empty() && shape_.n_staged[layouts_.of({layer_idx, 0, Precision::hi}).class_idx] > 0;
}

uint64_t DeviceTier::staged_offset(uint16_t layer_idx) const {
    const uint32_t class_idx = layouts_.of({layer_idx, 0, Precision::hi}).class_idx;
    return shape_.first_staged_slot(class_idx) * layouts_.classes[class_idx].slot_bytes;
}

void DeviceTier::take_back() {
    MutexLock lock(mu_);
    if (is_staging_held_ || any_staged_in_use()) {
        return;
    }
    for (size_t i = 0; i < is_lent_.size(); i++) {
        if (is_lent_[i]) {
            is_lent_[i] = false;
            cache_.open(static_cast<int32_t>(i));
        }
    }
}

std::optional<ExpertKey> DeviceTier::next_displaced() {
    MutexLock lock(mu_);
    if (n_promoting_ >= max_promotions || std::find(is_lent_.begin(), is_lent_.end(), true) != is_lent_.end()) {
        return {};
    }
    const auto is_back = [this](ExpertKey key) HOBBIT_REQUIRES(mu_) { return static_cast<bool>(cache_.find(key)); };
    displaced_.erase(std::remove_if(displaced_.begin(), displaced_.end(), is_back), displaced_.end());
    const auto is_less = [this](ExpertKey a, ExpertKey b)
                             HOBBIT_REQUIRES(mu_) { return policy_->score(a) < policy_->score(b); };
    const auto best    = std::max_element(displaced_.begin(), displaced_.end(), is_less);
    if (best == displaced_.end()) {
        return {};
    }
    const ExpertKey key = *best;
    displaced_.erase(best);
    return key;
}

int32_t TierStep::begin_staged(ExpertKey key, uint32_t part_idx, const std::byte * src, bool wait) {
    const TierShape &  shape      = tier_.shape_;
    const CopyLayout & layout     = tier_.layouts_.of(key);
    const int32_t      buffer_idx = shape.first_staged_idx(layout.class_idx, part_idx) + key.expert_idx;
    {
        MutexLock                 lock(tier_.mu_);
        DeviceTier::BufferState & state = tier_.buffers_[static_cast<size_t>(buffer_idx)];
        while (state != DeviceTier::BufferState::free) {
            if (!wait) {
                return -1;
            }
            tier_.changed_.wait(tier_.mu_);
        }
        state = DeviceTier::BufferState::copying;
        tier_.stats_.n_device_parts++;
        tier_.stats_.n_staged_parts++;
    }
    held_.push_back(buffer_idx);
    const PartLayout & part = layout.parts[part_idx];
    tier_.queue_.push({static_cast<uint64_t>(buffer_idx), layout.class_idx,
                       tier_.staged_offset(key.layer_idx) +
                           key.expert_idx * tier_.layouts_.classes[layout.class_idx].slot_bytes + part.data_offset,
                       src, part.n_bytes},
                      true);
    return buffer_idx;
}

uint64_t TierStep::claim_staged(ExpertKey key) {
    const CopyLayout & layout = tier_.layouts_.of(key);
    MutexLock          lock(tier_.mu_);
    for (uint32_t part_idx = 0; part_idx < layout.parts.size(); part_idx++) {
        const int32_t buffer_idx        = tier_.shape_.first_staged_idx(layout.class_idx, part_idx) + key.expert_idx;
        DeviceTier::BufferState & state = tier_.buffers_[static_cast<size_t>(buffer_idx)];
        while (state != DeviceTier::BufferState::free) {
            tier_.changed_.wait(tier_.mu_);
        }
        state = DeviceTier::BufferState::ready;
        held_.push_back(buffer_idx);
    }
    return tier_.staged_offset(key.layer_idx) + key.expert_idx * tier_.layouts_.classes[layout.class_idx].slot_bytes;
}

void TierStep::release_staged(uint16_t layer_idx, uint32_t part_idx) {
    const uint32_t class_idx = tier_.layouts_.of({layer_idx, 0, Precision::hi}).class_idx;
    const int32_t  first     = tier_.shape_.first_staged_idx(class_idx, part_idx);
    const int32_t  end       = first + static_cast<int32_t>(tier_.shape_.n_staged[class_idx]);
    const auto     staged =
        std::stable_partition(held_.begin(), held_.end(), [&](int32_t i) { return i < first || i >= end; });
    {
        MutexLock lock(tier_.mu_);
        for (auto held = staged; held != held_.end(); ++held) {
            tier_.buffers_[static_cast<size_t>(*held)] = DeviceTier::BufferState::free;
        }
    }
    held_.erase(staged, held_.end());
    tier_.changed_.notify_all();
}

} // namespace hobbit
