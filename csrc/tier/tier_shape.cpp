#include "tier/device_tier.h"

#include <algorithm>

namespace hobbit {

namespace {

constexpr uint32_t min_buffers = 3; // one in use, one being copied, one behind it
constexpr uint32_t max_buffers = 64;

} // namespace

TierShape shape_tier(const CopyLayouts & layouts, uint64_t largest_bytes, uint64_t max_area_bytes,
                     const TierOptions & options) {
    TierShape shape;
    shape.n_slots = split_budget(layouts.classes, options.expert_bytes, options.lo_share);
    for (size_t i = 0; i < shape.n_slots.size(); i++) {
        const uint64_t slot_bytes = layouts.classes[i].slot_bytes;
        shape.n_slots[i] = static_cast<uint32_t>(std::min<uint64_t>(shape.n_slots[i], max_area_bytes / slot_bytes));
        shape.area_bytes.push_back(shape.n_slots[i] * slot_bytes);
    }
    shape.buffer_bytes = largest_bytes;
    if (largest_bytes > 0) {
        const uint64_t wanted = std::min(options.ring_bytes, max_area_bytes) / largest_bytes;
        shape.n_buffers       = static_cast<uint32_t>(std::clamp<uint64_t>(wanted, min_buffers, max_buffers));
    }
    shape.area_bytes.push_back(shape.n_buffers * shape.buffer_bytes);
    return shape;
}

} // namespace hobbit
