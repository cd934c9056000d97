// A device that has room for all experts is filled, however little memory they pass through and however slow the link.
#include "engine/fill_tier.h"
#include "loader_fixture.h"
#include "tier_bench.h"

#include <doctest/doctest.h>

namespace hobbit {

namespace {

using testing::FakeDevice;
using testing::TinyModel;

struct Filled {
    TinyModel   model;
    CopyLayouts layouts;
    TierOptions options;
    TierShape   shape;

    // Slots for the 16 experts in one precision, and none in the other.
    explicit Filled(Precision precision = Precision::hi)
        : model({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}, precision == Precision::lo),
          layouts(testing::device_layouts(model, precision == Precision::lo)) {
        options.expert_bytes = 16 * layouts.classes[layouts.of({0, 0, precision}).class_idx].slot_bytes;
        options.lo_share     = precision == Precision::lo ? 1.0 : 0.0;
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
    REQUIRE(fill_tier(bench.loader, tier, Precision::hi).ok());
    CHECK(tier.stats().n_promoted == 16);
    CHECK(tier.held(0).first_idx == 0);
    CHECK(tier.held(1).first_idx == 8);
    const auto step = tier.begin(filled.model.keys(1, {0, 7}));
    for (uint32_t i = 0; i < 2; i++) {
        REQUIRE(step->slot(i));
        const auto offset = static_cast<uint64_t>(step->slot(i).slot_idx) * filled.layouts.classes[0].slot_bytes +
                            filled.layouts.of({1, 0}).parts[0].data_offset;
        CHECK(filled.model.is_right(filled.model.keys(1, {0, 7})[i], 0, device.data(0, offset)));
    }
    tier.check_invariants();
}

TEST_CASE("lo copies are held likewise") {
    Filled        filled(Precision::lo);
    LoaderOptions loader_options = filled.loader_slots(2);
    loader_options.lo_share      = 1.0;
    testing::Bench bench(filled.model, loader_options);
    FakeDevice     device(filled.shape.area_bytes);
    DeviceTier     tier(filled.layouts, filled.model.n_expert(), filled.shape, device, filled.options);
    REQUIRE(fill_tier(bench.loader, tier, Precision::lo).ok());
    const CopyLayout & layout = filled.layouts.of({1, 0, Precision::lo});
    for (const uint16_t layer_idx : {uint16_t{0}, uint16_t{1}}) {
        CHECK(tier.held(layer_idx).first_idx == 8 * layer_idx);
        CHECK(tier.held(layer_idx).precision == Precision::lo);
    }
    for (uint16_t expert_idx = 0; expert_idx < 8; expert_idx++) {
        const auto offset = (8u + expert_idx) * filled.layouts.classes[layout.class_idx].slot_bytes;
        for (uint32_t part_idx = 0; part_idx < 3; part_idx++) {
            CHECK(filled.model.is_right({1, expert_idx, Precision::lo}, part_idx,
                                        device.data(layout.class_idx, offset + layout.parts[part_idx].data_offset)));
        }
    }
    CHECK(tier.stats().resident_bytes[0] == 0);
    tier.check_invariants();
}

TEST_CASE("without memory to pass through nothing is promoted") {
    Filled         filled;
    testing::Bench bench(filled.model, filled.loader_slots(0));
    FakeDevice     device(filled.shape.area_bytes);
    DeviceTier     tier(filled.layouts, filled.model.n_expert(), filled.shape, device, filled.options);
    CHECK(fill_tier(bench.loader, tier, Precision::hi).ok());
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
    CHECK_FALSE(fill_tier(bench.loader, tier, Precision::hi).ok());
}

} // namespace

} // namespace hobbit
