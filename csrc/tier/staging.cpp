#include "tier/staging.h"

#include <algorithm>
#include <utility>

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

bool Staging::any_in_use() const {
    const auto first = tier_.buffers_.begin() + tier_.shape_.n_one_use();
    return std::any_of(first, tier_.buffers_.end(),
                       [](DeviceTier::BufferState state) { return state != DeviceTier::BufferState::free; });
}

bool Staging::begin_layer(uint32_t class_idx) {
    MutexLock     lock(tier_.mu_);
    const int64_t last = std::exchange(tier_.staged_class_, class_idx);
    if (last < 0 || last == class_idx) {
        return false;
    }
    while (any_in_use()) { // by copies that were given up
        tier_.changed_.wait(tier_.mu_);
    }
    return true;
}

int32_t TierStep::begin_staged(ExpertKey key, uint32_t part_idx, const std::byte * src, bool wait) {
    const TierShape &  shape      = tier_.shape_;
    const CopyLayout & layout     = tier_.layouts_.of(key);
    const int32_t      buffer_idx = shape.staged_idx(key, part_idx);
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
    tier_.queue_.push({static_cast<uint64_t>(buffer_idx), shape.staging_area(),
                       key.expert_idx * tier_.layouts_.classes[layout.class_idx].slot_bytes + part.data_offset, src,
                       part.n_bytes},
                      true);
    return buffer_idx;
}

uint64_t TierStep::claim_staged(ExpertKey key) {
    const CopyLayout & layout = tier_.layouts_.of(key);
    MutexLock          lock(tier_.mu_);
    for (uint32_t part_idx = 0; part_idx < layout.parts.size(); part_idx++) {
        const int32_t             buffer_idx = tier_.shape_.staged_idx(key, part_idx);
        DeviceTier::BufferState & state      = tier_.buffers_[static_cast<size_t>(buffer_idx)];
        while (state != DeviceTier::BufferState::free) {
            tier_.changed_.wait(tier_.mu_);
        }
        state = DeviceTier::BufferState::ready;
        held_.push_back(buffer_idx);
    }
    return key.expert_idx * tier_.layouts_.classes[layout.class_idx].slot_bytes;
}

void TierStep::release_staged(uint32_t part_idx) {
    const int32_t first = tier_.shape_.staged_idx({}, part_idx);
    const int32_t end   = first + static_cast<int32_t>(tier_.shape_.n_staged);
    const auto    staged =
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
