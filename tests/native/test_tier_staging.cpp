// The staging area: what was asked for lies where it belongs and nothing else is copied, and nothing is written while
// it may still be read.
#include "tier/staging.h"
#include "tier_bench.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace hobbit {

namespace {

using namespace testing;

TinyModel two_layers() { return TinyModel({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}); }

uint64_t place_of(const TierBench & bench, ExpertKey key, uint32_t part_idx) {
    const CopyLayout & layout = bench.layouts.of(key);
    return key.expert_idx * bench.layouts.classes[layout.class_idx].slot_bytes + layout.parts[part_idx].data_offset;
}

int32_t stage(TierBench & bench, TierStep & step, ExpertKey key, uint32_t part_idx, bool wait = true) {
    return step.begin_staged(key, part_idx, bench.source(key, part_idx), wait);
}

bool is_staged(const TierBench & bench, ExpertKey key, uint32_t part_idx) {
    return bench.model.is_right(key, part_idx,
                                bench.device.data(bench.shape.staging_area(), place_of(bench, key, part_idx)));
}

TEST_CASE("experts are staged in their own order, each once and no other") {
    for (const OneUse one_use : {OneUse::ring, OneUse::spare_slots}) {
        TierBench bench(two_layers(), 2, 0.0, false, one_use);
        Staging   staging(bench.tier);
        staging.begin_layer(0);
        std::vector<uint64_t> wanted;
        {
            const auto           step = bench.tier.begin(bench.model.keys(1, {1, 4, 7}));
            std::vector<int32_t> buffers;
            for (uint32_t part = 0; part < 3; part++) {
                for (const uint16_t e : {1, 4, 7}) {
                    buffers.push_back(stage(bench, *step, {1, e}, part));
                    REQUIRE(buffers.back() >= 0);
                    wanted.push_back(place_of(bench, {1, e}, part));
                }
            }
            for (const int32_t buffer_idx : buffers) {
                step->wait_copy(buffer_idx);
            }
            for (uint32_t part = 0; part < 3; part++) {
                for (const uint16_t e : {1, 4, 7}) {
                    CHECK(is_staged(bench, {1, e}, part));
                }
            }
        }
        std::vector<uint64_t> begun;
        uint64_t              n_bytes = 0;
        for (const FakeDevice::Begun & copy : bench.device.begun()) {
            CHECK(copy.area_idx == bench.shape.staging_area());
            n_bytes += copy.n_bytes;
            begun.push_back(copy.offset);
        }
        for (const uint64_t offset : wanted) {
            CHECK(std::count(begun.begin(), begun.end(), offset) == 1);
        }
        CHECK(n_bytes == 3 * 8'500);
        CHECK(bench.tier.stats().n_staged_parts == 9);
    }
}

TEST_CASE("a place is not written until what reads it was computed") {
    TierBench bench(two_layers(), 2);
    Staging   staging(bench.tier);
    staging.begin_layer(0);
    const auto step = bench.tier.begin(bench.model.keys(0, {1, 2}));
    for (uint32_t part = 0; part < 3; part++) {
        step->wait_copy(stage(bench, *step, {0, 1}, part));
    }
    CHECK(step->claim_staged({0, 2}) == place_of(bench, {0, 2}, 0)); // by a copy within the device

    const auto ahead = bench.tier.begin({});
    CHECK(stage(bench, *ahead, {1, 1}, 0, false) == -1);
    CHECK(stage(bench, *ahead, {1, 2}, 0, false) == -1);
    CHECK(stage(bench, *ahead, {1, 3}, 0, false) >= 0); // nobody reads it
    step->release_staged(0);
    CHECK(stage(bench, *ahead, {1, 2}, 0, false) >= 0);
    const int32_t buffer_idx = stage(bench, *ahead, {1, 1}, 0, false);
    REQUIRE(buffer_idx >= 0);
    CHECK(stage(bench, *ahead, {1, 1}, 1, false) == -1); // of another part

    const auto next = bench.tier.begin(bench.model.keys(1, {1}));
    next->adopt(*ahead, buffer_idx);
    next->wait_copy(buffer_idx);
    CHECK(is_staged(bench, {1, 1}, 0));
    CHECK(is_staged(bench, {0, 1}, 1));
    CHECK(is_staged(bench, {0, 1}, 2));
    CHECK(bench.tier.stats().n_ahead_parts == 1);
}

TEST_CASE("what was given up is not written over what comes after it") {
    TierBench bench(two_layers(), 2, 0.2); // 200 us a chunk
    Staging   staging(bench.tier);
    staging.begin_layer(0);
    const auto ahead = bench.tier.begin({});
    for (uint16_t e = 0; e < 8; e++) {
        REQUIRE(stage(bench, *ahead, {0, e}, 0) >= 0);
    }
    while (bench.device.begun().empty()) {
        std::this_thread::yield();
    }
    ahead->abandon(nullptr);
    CHECK(ahead->n_held() == 0);
    const auto step = bench.tier.begin(bench.model.keys(1, {0, 1, 2, 3, 4, 5, 6}));
    for (uint16_t e = 0; e < 7; e++) {
        const int32_t buffer_idx = stage(bench, *step, {1, e}, 0);
        step->wait_copy(buffer_idx);
        CHECK(is_staged(bench, {1, e}, 0));
    }
    step->claim_staged({1, 7}); // waits likewise
    for (uint16_t e = 0; e < 7; e++) {
        CHECK(is_staged(bench, {1, e}, 0));
    }
}

TEST_CASE("one pass has the area at a time") {
    TierBench                bench(two_layers(), 0, 0.01);
    std::atomic<int>         n_inside{0}, n_wrong{0};
    std::vector<std::thread> threads;
    for (uint16_t layer_idx = 0; layer_idx < 2; layer_idx++) {
        threads.emplace_back([&, layer_idx] {
            for (int pass = 0; pass < 20; pass++) {
                Staging staging(bench.tier);
                n_wrong += n_inside++ > 0 ? 1 : 0;
                staging.begin_layer(0);
                const ExpertKey key{layer_idx, 5};
                const auto      step = bench.tier.begin(bench.model.keys(layer_idx, {5}));
                for (uint32_t part = 0; part < 3; part++) {
                    step->wait_copy(stage(bench, *step, key, part));
                    n_wrong += is_staged(bench, key, part) ? 0 : 1;
                }
                n_inside--;
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    CHECK(n_wrong == 0);
}

TEST_CASE("layers of another class are told apart, once nothing is written any more") {
    TierBench bench(TinyModel({{8, {3'000, 3'000, 2'500}}, {8, {5'000, 2'000, 1'500}}}), 2, 0.2);
    REQUIRE(bench.layouts.of({0, 0}).class_idx != bench.layouts.of({1, 0}).class_idx);
    const uint32_t classes[2] = {bench.layouts.of({0, 0}).class_idx, bench.layouts.of({1, 0}).class_idx};
    CHECK(bench.layouts.of({0, 0}).parts[0].padding == 100);
    {
        Staging staging(bench.tier);
        CHECK_FALSE(staging.begin_layer(classes[0])); // the area is empty
        CHECK_FALSE(staging.begin_layer(classes[0]));
        const auto ahead = bench.tier.begin({});
        REQUIRE(stage(bench, *ahead, {0, 3}, 0) >= 0);
        while (bench.device.begun().empty()) {
            std::this_thread::yield();
        }
        ahead->abandon(nullptr);
    }
    Staging staging(bench.tier); // of the next pass
    CHECK(staging.begin_layer(classes[1]));
    const std::byte * place = bench.device.data(bench.shape.staging_area(), place_of(bench, {0, 3}, 0));
    CHECK(std::memcmp(place, bench.source({0, 3}, 0), 1'000) == 0); // the chunk that was under way
    CHECK_FALSE(staging.begin_layer(classes[1]));
}

TEST_CASE("the area has room for the largest layer, if it is wanted and the device allows it") {
    const TinyModel   model({{8, {3'000, 3'000, 2'500}}, {6, {5'000, 5'000, 4'500}}});
    const CopyLayouts layouts = device_layouts(model, false);
    TierOptions       options = small_options(0, OneUse::ring);
    const auto        shaped  = [&](uint64_t max_area_bytes) {
        return shape_tier(layouts, largest_part_bytes(layouts), max_area_bytes, options);
    };
    const uint64_t  largest = 6 * layouts.classes[layouts.of({1, 0}).class_idx].slot_bytes;
    const TierShape shape   = shaped(UINT64_MAX);
    CHECK(shape.n_staged == 8);
    CHECK(shape.area_bytes[shape.staging_area()] == largest);
    CHECK(shape.staged_idx({0, 7}, 2) == static_cast<int32_t>(shape.n_buffers_in_all()) - 1);
    CHECK(shaped(largest).n_staged == 8);
    CHECK(shaped(largest - 1).n_staged == 0);
    CHECK(shaped(largest - 1).area_bytes[shape.staging_area()] == 0);
    options.has_staging = false;
    CHECK(shaped(UINT64_MAX).n_staged == 0);
    CHECK(shaped(UINT64_MAX).n_buffers_in_all() == shape.n_one_use());
}

} // namespace

} // namespace hobbit
