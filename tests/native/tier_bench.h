// A tier over a device that is only memory, with a tiny model's bytes to copy.
#pragma once

#include "fake_device.h"
#include "loader_fixture.h"
#include "tier/device_tier.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit::testing {

inline constexpr uint64_t device_align = 256;

inline CopyLayouts device_layouts(const TinyModel & model, bool has_lo) {
    std::vector<CopySpec> specs;
    for (int p = 0; p < (has_lo ? 2 : 1); p++) {
        for (uint16_t layer_idx = 0; layer_idx < model.layers.size(); layer_idx++) {
            CopySpec spec;
            spec.layer_idx = layer_idx;
            spec.precision = static_cast<Precision>(p);
            spec.n_expert  = model.layers[layer_idx].n_expert;
            spec.n_used    = 2;
            for (uint32_t part = 0; part < model.layers[layer_idx].part_bytes.size(); part++) {
                const uint64_t n = model.part_bytes(layer_idx, part, spec.precision);
                spec.parts.push_back({model.tensor_offsets[p][part][layer_idx], n, n + 100});
            }
            specs.push_back(spec);
        }
    }
    return make_device_layouts(specs, device_align);
}

enum class OneUse { ring, spare_slots };

inline TierOptions small_options(uint64_t expert_bytes, OneUse one_use) {
    TierOptions options;
    options.expert_bytes     = expert_bytes;
    options.ring_bytes       = 0; // the least number of buffers
    options.small_part_bytes = one_use == OneUse::ring ? 0 : 1 << 20;
    options.chunk_bytes      = 1'000;
    return options;
}

struct TierBench {
    TinyModel   model;
    CopyLayouts layouts;
    TierShape   shape;
    FakeDevice  device;
    DeviceTier  tier;

    explicit TierBench(TinyModel tiny, uint32_t n_slots, double us_per_byte = 0.0, bool has_lo = false,
                       OneUse one_use = OneUse::ring)
        : model(std::move(tiny)), layouts(device_layouts(model, has_lo)),
          shape(shape_tier(layouts, largest_part_bytes(layouts), UINT64_MAX,
                           small_options(n_slots * layouts.classes[0].slot_bytes, one_use))),
          device(shape.area_bytes, us_per_byte),
          tier(layouts, model.n_expert(), shape, device, small_options(0, one_use)) {}

    ~TierBench() { tier.check_invariants(); }

    const std::byte * source(ExpertKey key, uint32_t part_idx) const {
        const FileExtent e = model.extent(key, part_idx);
        return model.files[e.file_idx].data() + e.offset;
    }

    bool promote(ExpertKey key, std::shared_ptr<const void> hold = nullptr, bool only_free = false) {
        const std::byte * parts[max_parts] = {};
        for (uint32_t i = 0; i < layouts.of(key).parts.size(); i++) {
            parts[i] = source(key, i);
        }
        return tier.promote(key, parts, std::move(hold), only_free);
    }

    int32_t copy(TierStep & step, ExpertKey key, uint32_t part_idx, bool wait = false, bool is_demand = true) {
        return step.begin_copy(key, part_idx, source(key, part_idx), wait, is_demand);
    }
    // Whether a copy for one use has the right bytes.
    bool is_right(ExpertKey key, uint32_t part_idx, int32_t buffer_idx) const {
        const OneUseBuffers one_use = tier.one_use(key, part_idx);
        return model.is_right(key, part_idx, device.data(one_use.area_idx, one_use.offset(buffer_idx)));
    }

    bool is_right(ExpertKey key, SlotRef slot) const {
        const CopyLayout & layout = layouts.of(key);
        bool               right  = true;
        for (uint32_t i = 0; i < layout.parts.size(); i++) {
            const uint64_t offset =
                static_cast<uint64_t>(slot.slot_idx) * layouts.classes[layout.class_idx].slot_bytes +
                layout.parts[i].data_offset;
            right = right && model.is_right(key, i, device.data(static_cast<uint32_t>(slot.class_idx), offset));
        }
        return right;
    }

    void route(uint16_t layer_idx, const std::vector<int32_t> & expert_idxs) {
        tier.on_route({layer_idx, static_cast<uint32_t>(expert_idxs.size()), 1, expert_idxs.data(), nullptr});
    }
};

} // namespace hobbit::testing
