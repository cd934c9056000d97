#include "tier/device_tier.h"

#include <algorithm>

namespace hobbit {

namespace {

constexpr uint32_t min_buffers = 3; // one in use, one being copied, one behind it
constexpr uint32_t max_buffers = 64;

// Experts in hi of each class's largest layer.
std::vector<uint32_t> largest_layers(const CopyLayouts & layouts) {
    std::vector<uint32_t> n(layouts.classes.size(), 0);
    for (const CopyLayout & layout : layouts.layouts[static_cast<int>(Precision::hi)]) {
        if (layout.n_expert > 0) {
            n[layout.class_idx] = std::max(n[layout.class_idx], layout.n_expert);
        }
    }
    return n;
}

// Spare slots for each class, if copies of one use go into such; 0: there is a ring.
uint32_t n_spare_slots(const CopyLayouts & layouts, uint64_t largest_bytes, const TierOptions & options) {
    uint64_t one_each = 0; // a slot of every class
    uint32_t n_used   = 0;
    for (const SizeClass & size_class : layouts.classes) {
        one_each += size_class.slot_bytes;
        n_used = std::max(n_used, size_class.max_n_used);
    }
    if (one_each == 0 || largest_bytes > options.small_part_bytes) {
        return 0;
    }
    // All that a token may miss; room for this layer's and the next one's, and as many again for prompts, is enough.
    const auto n = static_cast<uint32_t>(
        std::clamp<uint64_t>(options.ring_bytes / one_each, min_buffers, std::max(min_buffers, 4 * n_used)));
    return n >= n_used ? n : 0;
}

bool may_stage(const CopyLayouts & layouts, const TierOptions & options) {
    const auto is_lo = [](const SizeClass & size_class) { return size_class.precision == Precision::lo; };
    return options.has_staging && std::none_of(layouts.classes.begin(), layouts.classes.end(), is_lo);
}

// In proportion, but each class has slots to lend, if there is memory for that: a class of few layers had too few.
std::vector<uint32_t> split_slots(const CopyLayouts & layouts, const TierOptions & options) {
    if (!may_stage(layouts, options) || staged_bytes(layouts) > options.expert_bytes) {
        return split_budget(layouts.classes, options.expert_bytes, options.lo_share);
    }
    const std::vector<uint32_t> least = largest_layers(layouts);
    std::vector<SizeClass>      rest  = layouts.classes;
    for (size_t i = 0; i < rest.size(); i++) {
        rest[i].n_copies -= least[i];
    }
    std::vector<uint32_t> n = split_budget(rest, options.expert_bytes - staged_bytes(layouts), 0.0);
    for (size_t i = 0; i < n.size(); i++) {
        n[i] += least[i];
    }
    return n;
}

// Slots of each class that a batch can borrow: as many as its largest layer has experts. What all fits is never staged,
// and with lo copies results are others than llama.cpp's in any case.
std::vector<uint32_t> n_lendable(const CopyLayouts & layouts, const std::vector<uint32_t> & n_slots,
                                 const TierOptions & options) {
    bool is_wanted = false;
    for (size_t i = 0; i < n_slots.size(); i++) {
        is_wanted = is_wanted || n_slots[i] < layouts.classes[i].n_copies;
    }
    if (!is_wanted || !may_stage(layouts, options)) {
        return std::vector<uint32_t>(n_slots.size(), 0);
    }
    std::vector<uint32_t> n = largest_layers(layouts);
    for (size_t i = 0; i < n.size(); i++) {
        n[i] = n[i] <= n_slots[i] ? n[i] : 0;
    }
    return n;
}

} // namespace

uint64_t staged_bytes(const CopyLayouts & layouts) {
    const std::vector<uint32_t> n     = largest_layers(layouts);
    uint64_t                    bytes = 0;
    for (size_t i = 0; i < n.size(); i++) {
        bytes += n[i] * layouts.classes[i].slot_bytes;
    }
    return bytes;
}

TierShape shape_tier(const CopyLayouts & layouts, uint64_t largest_bytes, uint64_t max_area_bytes,
                     const TierOptions & options) {
    TierShape shape;
    shape.n_slots         = split_slots(layouts, options);
    const uint32_t spare  = n_spare_slots(layouts, largest_bytes, options);
    bool           all_in = true;
    for (size_t i = 0; i < shape.n_slots.size(); i++) {
        const uint64_t slot_bytes = layouts.classes[i].slot_bytes;
        const uint64_t most       = max_area_bytes / slot_bytes;
        all_in                    = all_in && spare <= most;
        shape.n_slots[i] = static_cast<uint32_t>(std::min<uint64_t>(shape.n_slots[i], all_in ? most - spare : most));
    }
    shape.n_spare.assign(shape.n_slots.size(), all_in ? spare : 0);
    for (size_t i = 0; i < shape.n_slots.size(); i++) {
        shape.n_kept.push_back(std::min(shape.n_spare[i], layouts.classes[i].max_n_used));
        shape.area_bytes.push_back((shape.n_slots[i] + shape.n_spare[i]) * layouts.classes[i].slot_bytes);
    }
    shape.buffer_bytes = largest_bytes;
    if (largest_bytes > 0 && (spare == 0 || !all_in)) {
        const uint64_t wanted = std::min(options.ring_bytes, max_area_bytes) / largest_bytes;
        shape.n_buffers       = static_cast<uint32_t>(std::clamp<uint64_t>(wanted, min_buffers, max_buffers));
    }
    shape.area_bytes.push_back(shape.n_buffers * shape.buffer_bytes);
    shape.n_staged = n_lendable(layouts, shape.n_slots, options);
    return shape;
}

uint32_t TierShape::n_one_use() const {
    uint32_t n = n_buffers;
    for (const uint32_t n_of_class : n_spare) {
        n += n_of_class * max_parts;
    }
    return n;
}

uint32_t TierShape::n_buffers_in_all() const {
    return static_cast<uint32_t>(first_staged_idx(static_cast<uint32_t>(n_staged.size()), 0));
}

int32_t TierShape::first_staged_idx(uint32_t class_idx, uint32_t part_idx) const {
    uint32_t idx = n_one_use();
    for (uint32_t i = 0; i < class_idx; i++) {
        idx += n_staged[i] * max_parts;
    }
    return static_cast<int32_t>(class_idx < n_staged.size() ? idx + part_idx * n_staged[class_idx] : idx);
}

uint32_t TierShape::first_spare_idx(uint32_t class_idx, uint32_t part_idx) const {
    uint32_t idx = part_idx * n_spare[class_idx];
    for (uint32_t i = 0; i < class_idx; i++) {
        idx += n_spare[i] * max_parts;
    }
    return idx;
}

OneUseBuffers TierShape::one_use(const CopyLayouts & layouts, ExpertKey key, uint32_t part_idx) const {
    if (has_ring()) {
        return {0, n_buffers, ring_area(), 0, buffer_bytes};
    }
    const CopyLayout & layout     = layouts.of(key);
    const uint64_t     slot_bytes = layouts.classes[layout.class_idx].slot_bytes;
    return {first_spare_idx(layout.class_idx, part_idx), n_spare[layout.class_idx], layout.class_idx,
            n_slots[layout.class_idx] * slot_bytes + layout.parts[part_idx].data_offset, slot_bytes};
}

} // namespace hobbit
