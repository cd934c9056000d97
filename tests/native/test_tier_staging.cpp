// The staging area: what was asked for lies where it belongs and nothing else is copied, and nothing is written while
// it may still be read. test_tier_lending.cpp is about the slots that it borrows.
#include "tier/staging.h"
#include "tier_bench.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace hobbit {

namespace {

using namespace testing;

TinyModel two_layers() { return TinyModel({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}); }

uint64_t place_of(const TierBench & bench, ExpertKey key, uint32_t part_idx) {
    const CopyLayout & layout = bench.layouts.of(key);
    const uint32_t     first  = bench.shape.first_staged_slot(layout.class_idx);
    return (first + key.expert_idx) * bench.layouts.classes[layout.class_idx].slot_bytes +
           layout.parts[part_idx].data_offset;
}

int32_t stage(TierBench & bench, TierStep & step, ExpertKey key, uint32_t part_idx, bool wait = true) {
    return step.begin_staged(key, part_idx, bench.source(key, part_idx), wait);
}

bool is_staged(const TierBench & bench, ExpertKey key, uint32_t part_idx) {
    return bench.model.is_right(key, part_idx,
                                bench.device.data(bench.layouts.of(key).class_idx, place_of(bench, key, part_idx)));
}

TEST_CASE("experts are staged in their own order, each once and no other") {
    for (const OneUse one_use : {OneUse::ring, OneUse::spare_slots}) {
        TierBench bench(two_layers(), 9, 0.0, false, one_use);
        Staging   staging(bench.tier);
        staging.borrow(1);
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
            CHECK(copy.area_idx == 0);
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
    TierBench bench(two_layers(), 9);
    Staging   staging(bench.tier);
    staging.borrow(0);
    const auto step = bench.tier.begin(bench.model.keys(0, {1, 2}));
    for (uint32_t part = 0; part < 3; part++) {
        step->wait_copy(stage(bench, *step, {0, 1}, part));
    }
    CHECK(step->claim_staged({0, 2}) == place_of(bench, {0, 2}, 0)); // by a copy within the device

    const auto ahead = bench.tier.begin({});
    CHECK(stage(bench, *ahead, {1, 1}, 0, false) == -1);
    CHECK(stage(bench, *ahead, {1, 2}, 0, false) == -1);
    CHECK(stage(bench, *ahead, {1, 3}, 0, false) >= 0); // nobody reads it
    step->release_staged(0, 0);
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
    TierBench bench(two_layers(), 8, 0.2); // 200 us a chunk
    Staging   staging(bench.tier);
    staging.borrow(0);
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
    TierBench                bench(two_layers(), 8, 0.01);
    std::atomic<int>         n_inside{0}, n_wrong{0};
    std::vector<std::thread> threads;
    for (uint16_t layer_idx = 0; layer_idx < 2; layer_idx++) {
        threads.emplace_back([&, layer_idx] {
            for (int pass = 0; pass < 20; pass++) {
                Staging staging(bench.tier);
                n_wrong += n_inside++ > 0 ? 1 : 0;
                staging.borrow(layer_idx);
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

TEST_CASE("layers of another class have places of their own, in its slots") {
    const std::vector<uint64_t> parts[2] = {{3'000, 3'000, 2'500}, {5'000, 2'000, 1'500}};
    TierBench                   bench(TinyModel({{8, parts[0]}, {8, parts[0]}, {8, parts[1]}, {8, parts[1]}}), 20);
    REQUIRE(bench.layouts.of({0, 0}).class_idx != bench.layouts.of({2, 0}).class_idx);
    Staging staging(bench.tier);
    staging.borrow(0);
    staging.borrow(2);
    const auto step = bench.tier.begin(bench.model.keys(0, {3}));
    const auto next = bench.tier.begin(bench.model.keys(2, {3}));
    for (uint32_t part = 0; part < 3; part++) {
        step->wait_copy(stage(bench, *step, {0, 3}, part));
        next->wait_copy(stage(bench, *next, {2, 3}, part, false)); // nothing is in its way
    }
    for (uint32_t part = 0; part < 3; part++) {
        CHECK(is_staged(bench, {0, 3}, part));
        CHECK(is_staged(bench, {2, 3}, part));
    }
    step->release_staged(0, 1);
    CHECK(step->n_held() == 2);
    CHECK(next->n_held() == 3);
}

TEST_CASE("a class lends slots if it has as many as its largest layer has experts") {
    const TinyModel   model({{8, {3'000, 3'000, 2'500}},
                             {6, {3'000, 3'000, 2'500}},
                             {6, {5'000, 5'000, 4'500}},
                             {6, {5'000, 5'000, 4'500}}});
    const CopyLayouts layouts = device_layouts(model, false);
    REQUIRE(layouts.classes.size() == 2);
    const uint64_t all_bytes = 14 * layouts.classes[0].slot_bytes + 12 * layouts.classes[1].slot_bytes;
    const auto     shaped    = [&](uint64_t expert_bytes, OneUse one_use, bool has_staging = true) {
        TierOptions options = small_options(expert_bytes, one_use);
        options.has_staging = has_staging;
        return shape_tier(layouts, largest_part_bytes(layouts), UINT64_MAX, options);
    };
    bool was_lent[2] = {}, was_not[2] = {};
    for (const OneUse one_use : {OneUse::ring, OneUse::spare_slots}) {
        for (uint64_t n_bytes = 0; n_bytes < all_bytes; n_bytes += 5'000) {
            const TierShape shape = shaped(n_bytes, one_use);
            for (uint32_t c = 0; c < 2; c++) {
                const uint32_t n_expert = c == 0 ? 8 : 6;
                CHECK(shape.n_staged[c] == (shape.n_slots[c] >= n_expert ? n_expert : 0));
                // Two of three spare slots are left: a token uses as many experts.
                CHECK(shape.n_kept[c] == (one_use == OneUse::ring ? 0 : 2));
                CHECK(shape.first_staged_slot(c) + shape.n_staged[c] ==
                      shape.n_slots[c] + (one_use == OneUse::ring ? 0 : 1));
                CHECK((shape.n_staged[c] > 0 || n_bytes < staged_bytes(layouts)));
                (shape.n_staged[c] > 0 ? was_lent : was_not)[c] = true;
            }
            uint64_t used_bytes = 0; // none beside the slots, and the ring or the spare ones
            for (const uint64_t n : shape.area_bytes) {
                used_bytes += n;
            }
            const uint64_t one_use_bytes = one_use == OneUse::ring
                                               ? shape.n_buffers * shape.buffer_bytes
                                               : 3 * (layouts.classes[0].slot_bytes + layouts.classes[1].slot_bytes);
            CHECK(used_bytes <= n_bytes + one_use_bytes);
            CHECK(shape.n_buffers_in_all() == shape.n_one_use() + (shape.n_staged[0] + shape.n_staged[1]) * max_parts);
            CHECK(shaped(n_bytes, one_use, false).n_staged == std::vector<uint32_t>{0, 0});
        }
        CHECK(shaped(all_bytes, one_use).n_staged == std::vector<uint32_t>{0, 0}); // what fits whole is not staged
    }
    CHECK((was_lent[0] && was_not[0] && was_lent[1] && was_not[1]));
}

TEST_CASE("with lo copies nothing is staged") {
    const TinyModel   model({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}, true);
    const CopyLayouts layouts = device_layouts(model, true);
    TierOptions       options = small_options(9 * layouts.classes[0].slot_bytes, OneUse::ring);
    options.lo_share          = 0;
    const TierShape shape     = shape_tier(layouts, largest_part_bytes(layouts), UINT64_MAX, options);
    CHECK(shape.n_slots[0] == 9);
    CHECK(shape.n_staged == std::vector<uint32_t>(layouts.classes.size(), 0));
}

} // namespace

} // namespace hobbit
