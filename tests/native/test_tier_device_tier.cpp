// The tier of a device: what is resident is right, what is in use stays, what is worth more comes in.
#include "tier_bench.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

namespace hobbit {

namespace {

using namespace testing;

TinyModel two_layers() { return TinyModel({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}); }

TEST_CASE("a promoted expert is found, and its bytes are right") {
    TierBench bench(two_layers(), 4);
    CHECK(bench.tier.begin(bench.model.keys(0, {3}))->slot(0) == SlotRef{});
    bench.route(0, {3});
    REQUIRE(bench.promote({0, 3}));
    CHECK_FALSE(bench.promote({0, 3})); // it is on its way, or there
    bench.tier.finish_promotions();
    const auto step = bench.tier.begin(bench.model.keys(0, {2, 3}));
    CHECK_FALSE(step->slot(0));
    REQUIRE(step->slot(1));
    CHECK(bench.is_right({0, 3}, step->slot(1)));
    const TierStats stats = bench.tier.stats();
    CHECK(stats.n_hits[0] == 1);
    CHECK(stats.n_misses[0] == 2);
    CHECK(stats.resident_bytes[0] == 8'500);
    CHECK(stats.copy.background_bytes == 8'500);
}

TEST_CASE("a newcomer must be worth more than what goes, by the margin") {
    TierBench bench(two_layers(), 1);
    bench.route(0, {1});
    bench.route(0, {2});
    REQUIRE(bench.promote({0, 1}));
    bench.tier.finish_promotions();
    CHECK_FALSE(bench.promote({0, 2})); // as much
    CHECK_FALSE(bench.promote({0, 2}, nullptr, true));
    bench.route(0, {2});
    bench.route(0, {2});
    CHECK_FALSE(bench.promote({0, 2}, nullptr, true)); // no slot is free
    REQUIRE(bench.promote({0, 2}));
    bench.tier.finish_promotions();
    const auto step = bench.tier.begin(bench.model.keys(0, {1, 2}));
    CHECK_FALSE(step->slot(0));
    CHECK(bench.is_right({0, 2}, step->slot(1)));
    CHECK(bench.tier.stats().n_evictions == 1);
}

TEST_CASE("a small hi copy must be worth more where a lo copy serves meanwhile") {
    TierBench bench(TinyModel({{8, {3'000, 2'500}}}, true), 2, 0.0, true, OneUse::spare_slots);
    REQUIRE(bench.shape.n_slots[0] == 1);
    bench.route(0, {1});
    REQUIRE(bench.promote({0, 1}));
    bench.tier.finish_promotions();
    for (int i = 0; i < 2; i++) {
        bench.route(0, {2});
        CHECK_FALSE(bench.promote({0, 2}));
    }
    bench.route(0, {2});
    bench.route(0, {2});
    REQUIRE(bench.promote({0, 2}));
    bench.tier.finish_promotions();
    CHECK(bench.is_right({0, 2}, bench.tier.begin(bench.model.keys(0, {2}))->slot(0)));
}

TEST_CASE("what a step uses does not go") {
    TierBench bench(two_layers(), 1);
    bench.route(0, {1});
    REQUIRE(bench.promote({0, 1}));
    bench.tier.finish_promotions();
    const auto step = bench.tier.begin(bench.model.keys(0, {1}));
    for (int i = 0; i < 10; i++) {
        bench.route(0, {2});
    }
    CHECK_FALSE(bench.promote({0, 2}));
    CHECK(bench.is_right({0, 1}, step->slot(0)));
}

TEST_CASE("the source is held until the copy is done, and no longer") {
    TierBench bench(two_layers(), 4, 0.2);
    auto      hold = std::make_shared<int>(0);
    REQUIRE(bench.promote({0, 1}, hold));
    CHECK(hold.use_count() == 2);
    bench.tier.finish_promotions();
    while (hold.use_count() > 1) { // dropped right after
        std::this_thread::yield();
    }
    CHECK(hold.use_count() == 1);
}

constexpr OneUse both[] = {OneUse::ring, OneUse::spare_slots};

TEST_CASE("a matrix for one use passes promotions, and its buffer is used again") {
    for (const OneUse one_use : both) {
        TierBench bench(two_layers(), 8, 0.05, false, one_use);
        CHECK(bench.shape.has_ring() == (one_use == OneUse::ring));
        bench.route(0, {0});
        REQUIRE(bench.promote({0, 0}));
        const auto step = bench.tier.begin(bench.model.keys(0, {4, 5, 6, 7}));
        for (int round = 0; round < 3; round++) {
            std::vector<int32_t> buffers;
            for (uint16_t e = 4; e < 7; e++) {
                buffers.push_back(bench.copy(*step, {0, e}, 0));
                REQUIRE(buffers.back() >= 0);
            }
            CHECK(bench.copy(*step, {0, 7}, 0) < 0); // three buffers
            for (uint16_t e = 4; e < 7; e++) {
                step->wait_copy(buffers[e - 4u]);
                CHECK(step->is_copied(buffers[e - 4u]));
                CHECK(bench.is_right({0, e}, 0, buffers[e - 4u]));
                step->release(buffers[e - 4u]);
            }
        }
        CHECK(bench.tier.stats().n_device_parts == 9);
        CHECK(bench.tier.stats().copy.demand_bytes == 27'000);
        CHECK(step->n_held() == 0);
    }
}

TEST_CASE("spare slots take one copy of every part, beside what is resident") {
    TierBench bench(two_layers(), 8, 0.0, false, OneUse::spare_slots);
    bench.route(0, {0});
    REQUIRE(bench.promote({0, 0}));
    bench.tier.finish_promotions();
    const auto           step = bench.tier.begin(bench.model.keys(0, {0, 5, 6}));
    std::vector<int32_t> buffers;
    for (uint32_t part = 0; part < 3; part++) {
        for (uint16_t e = 5; e < 8; e++) {
            buffers.push_back(bench.copy(*step, {0, e}, part));
            REQUIRE(buffers.back() >= 0);
        }
    }
    for (uint32_t part = 0; part < 3; part++) {
        for (uint16_t e = 5; e < 8; e++) {
            const int32_t buffer_idx = buffers[part * 3 + e - 5u];
            step->wait_copy(buffer_idx);
            CHECK(bench.is_right({0, e}, part, buffer_idx));
        }
    }
    CHECK(bench.is_right({0, 0}, step->slot(0)));
    CHECK(bench.shape.n_one_use() == 9);
}

TEST_CASE("a step that dies waits for its copies") {
    for (const OneUse one_use : both) {
        TierBench bench(two_layers(), 0, 0.2, false, one_use);
        {
            const auto step = bench.tier.begin(bench.model.keys(0, {4}));
            REQUIRE(bench.copy(*step, {0, 4}, 0) >= 0);
        }
        const auto step = bench.tier.begin(bench.model.keys(0, {5}));
        for (int i = 0; i < 3; i++) {
            CHECK(bench.copy(*step, {0, 5}, 0) >= 0);
        }
    }
}

TEST_CASE("steps share the buffers") {
    for (const OneUse one_use : both) {
        TierBench        bench(two_layers(), 0, 0.01, false, one_use);
        std::atomic<int> n_wrong{0};
        const auto       work = [&](uint16_t layer_idx) {
            for (uint16_t round = 0; round < 40; round++) {
                const uint16_t expert_idx = round % 8;
                const auto     step       = bench.tier.begin(bench.model.keys(layer_idx, {expert_idx}));
                for (uint32_t part = 0; part < 3; part++) {
                    const ExpertKey key{layer_idx, expert_idx};
                    const int32_t   buffer_idx = bench.copy(*step, key, part, true);
                    step->wait_copy(buffer_idx);
                    n_wrong += bench.is_right(key, part, buffer_idx) ? 0 : 1;
                    step->release(buffer_idx);
                }
            }
        };
        std::vector<std::thread> threads;
        for (int i = 0; i < 5; i++) { // more than buffers
            threads.emplace_back(work, static_cast<uint16_t>(i % 2));
        }
        for (std::thread & thread : threads) {
            thread.join();
        }
        CHECK(n_wrong == 0);
    }
}

TEST_CASE("free slots are given away in equal shares, however many at once") {
    TierBench bench(two_layers(), 7, 0.01);
    for (uint16_t e = 0; e < 8; e++) {
        CHECK(bench.promote({0, e}, nullptr, true) == (e < 4));
    }
    for (uint16_t e = 0; e < 8; e++) {
        CHECK(bench.promote({1, e}, nullptr, true) == (e < 3)); // no more are free
    }
    bench.tier.finish_promotions();
    CHECK(bench.tier.stats().n_promoted == 7);
}

TEST_CASE("a layer that is whole and in order is fixed") {
    TierBench bench(two_layers(), 16);
    for (uint16_t layer_idx = 0; layer_idx < 2; layer_idx++) {
        for (uint16_t e = 0; e < (layer_idx == 0 ? 8 : 7); e++) {
            REQUIRE(bench.promote({layer_idx, e}));
            bench.tier.finish_promotions();
        }
    }
    CHECK(bench.tier.held(0).first_idx == -1);
    bench.tier.fix_complete_layers();
    CHECK(bench.tier.held(0).first_idx == 0);
    CHECK(bench.tier.held(1).first_idx == -1); // one is missing
    for (uint16_t e = 0; e < 8; e++) {
        CHECK(bench.is_right({0, e}, SlotRef{0, e}));
    }
    REQUIRE(bench.promote({1, 7}));
    bench.tier.finish_promotions();
    bench.tier.fix_complete_layers();
    CHECK(bench.tier.held(1).first_idx == 8);
    CHECK(bench.tier.held(1).precision == Precision::hi);
}

TEST_CASE("a buffer that was filled ahead goes over to the step that wants it") {
    TierBench  bench(two_layers(), 0);
    const auto ahead  = bench.tier.begin({});
    const auto step   = bench.tier.begin(bench.model.keys(1, {3}));
    const auto buffer = bench.copy(*ahead, {1, 3}, 0);
    REQUIRE(buffer >= 0);
    step->adopt(*ahead, buffer);
    CHECK(ahead->n_held() == 0);
    CHECK(step->n_held() == 1);
    step->wait_copy(buffer);
    CHECK(bench.is_right({1, 3}, 0, buffer));
    CHECK(bench.tier.stats().n_ahead_parts == 1);
    CHECK(bench.tier.stats().n_device_parts == 1);
    step->release(buffer);
}

TEST_CASE("buffers of a wrong guess are free again, and sources are held no longer than they are read") {
    for (const OneUse one_use : both) {
        TierBench          bench(two_layers(), 4, 0.2, false, one_use); // 200 us a chunk
        const uint32_t     n_buffers = bench.tier.one_use({1, 0}, 0).n;
        std::weak_ptr<int> held;
        {
            const auto hold  = std::make_shared<int>(0);
            const auto guess = bench.tier.begin({});
            held             = hold;
            for (uint16_t i = 0; i < n_buffers; i++) {
                CHECK(bench.copy(*guess, {1, i}, 0, false, false) >= 0);
            }
            CHECK(bench.copy(*guess, {1, 7}, 0, false, false) == -1);
            guess->abandon(hold);
            CHECK(guess->n_held() == 0);
        }
        const auto step = bench.tier.begin({});
        uint32_t   n    = 0;
        while (n < n_buffers) { // the last comes free when the copy under way is complete
            const int32_t buffer_idx = bench.copy(*step, {1, 5}, 0);
            if (buffer_idx < 0) {
                std::this_thread::yield();
                continue;
            }
            step->wait_copy(buffer_idx);
            CHECK(bench.is_right({1, 5}, 0, buffer_idx));
            n++;
        }
        CHECK(held.expired());
        CHECK(bench.device.begun().size() < 2 * n_buffers * 3); // what had not begun was not copied
    }
}

TEST_CASE("a guess that the link did not get to is taken back") {
    TierBench  bench(two_layers(), 4, 0.2);
    const auto step  = bench.tier.begin({});
    const auto first = bench.copy(*step, {1, 0}, 0);
    const auto last  = bench.copy(*step, {1, 1}, 0, false, false);
    CHECK(step->cancel(last));
    step->wait_copy(first);
    CHECK_FALSE(step->cancel(first));
    CHECK(bench.is_right({1, 0}, 0, first));
    CHECK(step->n_held() == 1);
    CHECK(bench.device.begun().size() == 3);
}

TEST_CASE("both precisions have slots of their own") {
    TierBench bench(TinyModel({{8, {3'000, 2'500}}}, true), 4, 0.0, true);
    REQUIRE(bench.shape.n_slots.size() == 2);
    REQUIRE(bench.shape.n_slots[1] > 0);
    REQUIRE(bench.promote({0, 1, Precision::lo}));
    REQUIRE(bench.promote({0, 1, Precision::hi}));
    bench.tier.finish_promotions();
    const int32_t expert_idxs[3] = {0, 1, 2};
    REQUIRE(bench.promote({0, 2, Precision::lo}));
    bench.tier.finish_promotions();
    Resident resident[3] = {};
    bench.tier.find_resident(0, expert_idxs, 3, resident);
    CHECK(resident[0] == Resident::none);
    CHECK(resident[1] == Resident::hi);
    CHECK(resident[2] == Resident::lo);
    for (const Precision precision : {Precision::hi, Precision::lo}) {
        const auto step = bench.tier.begin(bench.model.keys(0, {1}, precision));
        CHECK(bench.is_right({0, 1, precision}, step->slot(0)));
    }
}

TEST_CASE("an area is never larger than the device allows") {
    const TinyModel   model      = two_layers();
    const CopyLayouts layouts    = device_layouts(model, false);
    const uint64_t    slot_bytes = layouts.classes[0].slot_bytes;
    const auto        shaped     = [&](OneUse one_use, uint64_t max_slots) {
        return shape_tier(layouts, 3'072, max_slots * slot_bytes, small_options(100 * slot_bytes, one_use));
    };
    CHECK(shaped(OneUse::ring, 5).n_slots[0] == 5);
    CHECK(shaped(OneUse::ring, 5).n_buffers >= 3);
    CHECK(shaped(OneUse::spare_slots, 5).n_slots[0] == 2);
    CHECK(shaped(OneUse::spare_slots, 5).n_spare[0] == 3);
    CHECK(shaped(OneUse::spare_slots, 2).has_ring()); // no room for both
    for (const OneUse one_use : both) {
        for (const uint64_t max_slots : {2, 5, 50}) {
            for (const uint64_t n_bytes : shaped(one_use, max_slots).area_bytes) {
                CHECK(n_bytes <= std::max<uint64_t>(max_slots * slot_bytes, 3 * 3'072));
            }
        }
    }
}

} // namespace

} // namespace hobbit
