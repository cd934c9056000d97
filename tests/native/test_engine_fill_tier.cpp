// A device that has room for all experts is filled, however little memory they pass through and however slow the link.
#include "engine/fill_tier.h"
#include "fake_device.h"
#include "loader_fixture.h"

#include <doctest/doctest.h>

namespace hobbit {

namespace {

using testing::FakeDevice;
using testing::TinyModel;

CopyLayouts device_layouts(const TinyModel & model) {
    std::vector<CopySpec> specs;
    for (uint16_t layer_idx = 0; layer_idx < model.layers.size(); layer_idx++) {
        CopySpec spec;
        spec.layer_idx = layer_idx;
        spec.n_expert  = model.layers[layer_idx].n_expert;
        spec.n_used    = 2;
        for (uint32_t part = 0; part < model.layers[layer_idx].part_bytes.size(); part++) {
            spec.parts.push_back(
                {model.tensor_offsets[0][part][layer_idx], model.part_bytes(layer_idx, part, Precision::hi)});
        }
        specs.push_back(spec);
    }
    return make_device_layouts(specs, 256);
}

struct Filled {
    TinyModel   model{{{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}};
    CopyLayouts layouts = device_layouts(model);
    TierOptions options;
    TierShape   shape;

    Filled() {
        options.expert_bytes = 16 * layouts.classes[0].slot_bytes;
        shape                = shape_tier(layouts, largest_part_bytes(layouts), UINT64_MAX, options);
    }

    LoaderOptions loader_slots(uint64_t n) const {
        LoaderOptions loader_options;
        loader_options.expert_memory_bytes = n * model.layouts.classes[0].slot_bytes;
        return loader_options;
    }
};

TEST_CASE("all experts pass through two slots over a slow link") {
    Filled         filled;
    testing::Bench bench(filled.model, filled.loader_slots(2));
    FakeDevice     device(filled.shape.area_bytes, 0.2); // a copy takes longer than many reads
    DeviceTier     tier(filled.layouts, filled.model.n_expert(), filled.shape, device, filled.options);
    REQUIRE(fill_tier(bench.loader, tier).ok());
    CHECK(tier.stats().n_promoted == 16);
    CHECK(tier.fixed_slot(0) == 0);
    CHECK(tier.fixed_slot(1) == 8);
    const auto step = tier.begin(filled.model.keys(1, {0, 7}));
    for (uint32_t i = 0; i < 2; i++) {
        REQUIRE(step->slot(i));
        const auto offset = static_cast<uint64_t>(step->slot(i).slot_idx) * filled.layouts.classes[0].slot_bytes +
                            filled.layouts.of({1, 0}).parts[0].data_offset;
        CHECK(filled.model.is_right(filled.model.keys(1, {0, 7})[i], 0, device.data(0, offset)));
    }
    tier.check_invariants();
}

TEST_CASE("without memory to pass through nothing is promoted") {
    Filled         filled;
    testing::Bench bench(filled.model, filled.loader_slots(0));
    FakeDevice     device(filled.shape.area_bytes);
    DeviceTier     tier(filled.layouts, filled.model.n_expert(), filled.shape, device, filled.options);
    CHECK(fill_tier(bench.loader, tier).ok());
    CHECK(tier.stats().n_promoted == 0);
}

TEST_CASE("a failed read is an error") {
    Filled            filled;
    FakeReaderOptions reader_options;
    for (uint64_t op_number = 0; op_number < 60; op_number++) {
        reader_options.events.push_back({op_number, 0, EIO, false});
    }
    testing::Bench bench(filled.model, filled.loader_slots(2), reader_options);
    FakeDevice     device(filled.shape.area_bytes);
    DeviceTier     tier(filled.layouts, filled.model.n_expert(), filled.shape, device, filled.options);
    CHECK_FALSE(fill_tier(bench.loader, tier).ok());
}

} // namespace

} // namespace hobbit
