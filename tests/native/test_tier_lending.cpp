// Slots lent to batches: what they held goes and comes back, nobody gets them meanwhile, and nobody's are taken.
#include "tier/staging.h"
#include "tier_bench.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

namespace hobbit {

namespace {

using namespace testing;

TinyModel two_layers() { return TinyModel({{8, {3'000, 3'000, 2'500}}, {8, {3'000, 3'000, 2'500}}}); }

// Gives the first experts of layer 0 the slots from 0 on, expert i with i + 1 uses.
void fill(TierBench & bench, uint16_t n) {
    for (uint16_t e = 0; e < n; e++) {
        for (int use = 0; use <= e; use++) {
            bench.route(0, {e});
        }
        REQUIRE(bench.promote({0, e}));
        bench.tier.finish_promotions();
    }
}

std::vector<uint16_t> resident(TierBench & bench, uint16_t layer_idx) {
    std::vector<uint16_t> found;
    const auto            ready = bench.tier.residency(layer_idx, Precision::hi);
    for (uint16_t e = 0; e < ready.size(); e++) {
        if (ready[e] == 2) {
            found.push_back(e);
        }
    }
    return found;
}

TEST_CASE("what lies in the lent slots goes, the rest stays") {
    for (const OneUse one_use : {OneUse::ring, OneUse::spare_slots}) {
        TierBench bench(two_layers(), 10, 0.0, false, one_use);
        fill(bench, 5);
        const bool                  has_ring = one_use == OneUse::ring;
        const std::vector<uint16_t> left     = has_ring ? std::vector<uint16_t>{0, 1} : std::vector<uint16_t>{0, 1, 2};
        {
            Staging staging(bench.tier);
            staging.borrow(1); // of the same class: the last 8 of 10, or the last 7 and a spare one
            CHECK(resident(bench, 0) == left);
            CHECK(bench.tier.stats().resident_bytes[0] == left.size() * 8'500);
            CHECK(bench.tier.stats().n_evictions == 5 - left.size());
            staging.borrow(0);
            CHECK(bench.tier.stats().n_evictions == 5 - left.size());
            const auto step = bench.tier.begin(bench.model.keys(0, {0, 4}));
            CHECK(bench.is_right({0, 0}, step->slot(0)));
            CHECK_FALSE(step->slot(1));
            bench.tier.check_invariants();
        }
        CHECK(resident(bench, 0) == left); // still lent
    }
}

TEST_CASE("where spare slots are lent, a token's copies have those that are left") {
    TierBench bench(two_layers(), 10, 0.0, false, OneUse::spare_slots);
    {
        Staging staging(bench.tier);
        staging.borrow(0);
        const uint64_t area  = bench.tier.staged_offset(0);
        const uint64_t n_all = 8 * bench.layouts.classes[0].slot_bytes;
        const auto     step  = bench.tier.begin({});
        for (uint16_t e = 0; e < 2; e++) {
            const int32_t buffer_idx = bench.copy(*step, {1, e}, 0);
            REQUIRE(buffer_idx >= 0);
            const uint64_t offset = bench.tier.one_use({1, e}, 0).offset(buffer_idx);
            CHECK((offset < area || offset >= area + n_all));
        }
        CHECK(bench.copy(*step, {1, 2}, 0) == -1);
    }
    bench.tier.take_back();
    const auto step = bench.tier.begin({});
    for (uint16_t e = 0; e < 3; e++) {
        CHECK(bench.copy(*step, {1, e}, 0) >= 0);
    }
}

TEST_CASE("a copy in a spare slot that is to be lent is waited for until it was used") {
    TierBench         bench(two_layers(), 10, 0.0, false, OneUse::spare_slots);
    auto              step       = bench.tier.begin({});
    const int32_t     buffer_idx = bench.copy(*step, {1, 3}, 1);
    std::atomic<bool> is_lent{false};
    std::thread       borrower([&] {
        Staging staging(bench.tier);
        staging.borrow(0);
        is_lent = true;
    });
    while (bench.copy(*step, {1, 0}, 0) >= 0) { // until all are held, or but for those that are kept
        std::this_thread::yield();
    }
    step->wait_copy(buffer_idx);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_FALSE(is_lent);
    CHECK(bench.is_right({1, 3}, 1, buffer_idx));
    step.reset();
    borrower.join();
    CHECK(is_lent);
}

TEST_CASE("nobody is given a lent slot, until they are taken back") {
    TierBench bench(two_layers(), 9);
    fill(bench, 1);
    {
        Staging staging(bench.tier);
        staging.borrow(0);
    }
    for (int use = 0; use < 5; use++) {
        bench.route(1, {1, 2, 3});
    }
    CHECK_FALSE(bench.promote({1, 1}, nullptr, true)); // none is free
    REQUIRE(bench.promote({1, 1}));                    // in the one that is left
    CHECK_FALSE(bench.promote({1, 2}));                // ... which is being copied into
    bench.tier.finish_promotions();
    CHECK(resident(bench, 0).empty());
    bench.tier.take_back();
    CHECK(bench.promote({1, 2}, nullptr, true));
    CHECK(bench.promote({1, 3}));
    bench.tier.finish_promotions();
    CHECK(resident(bench, 1) == std::vector<uint16_t>{1, 2, 3});
    for (const uint16_t e : {1, 2, 3}) {
        CHECK(bench.is_right({1, e}, bench.tier.begin(bench.model.keys(1, {e}))->slot(0)));
    }
}

TEST_CASE("slots are taken back once no pass and no copy uses them, and never waited for") {
    TierBench bench(two_layers(), 8, 0.5); // 500 us a chunk
    {
        Staging staging(bench.tier);
        staging.borrow(0);
        bench.tier.take_back();
        CHECK_FALSE(bench.promote({1, 1}));
        const auto ahead = bench.tier.begin({});
        REQUIRE(ahead->begin_staged({0, 3}, 0, bench.source({0, 3}, 0), true) >= 0);
        while (bench.device.begun().empty()) {
            std::this_thread::yield();
        }
        ahead->abandon(nullptr);
    }
    while (!bench.promote({1, 1})) { // the chunk that was under way
        bench.tier.take_back();
        std::this_thread::yield();
    }
    bench.tier.finish_promotions();
    CHECK(bench.is_right({1, 1}, bench.tier.begin(bench.model.keys(1, {1}))->slot(0)));
}

TEST_CASE("what was displaced comes back, the most used first, a few at a time") {
    TierBench bench(two_layers(), 10);
    fill(bench, 7);
    CHECK_FALSE(bench.tier.next_displaced());
    {
        Staging staging(bench.tier);
        staging.borrow(0);
    }
    CHECK_FALSE(bench.tier.next_displaced()); // there is no room yet
    bench.tier.take_back();
    REQUIRE(bench.promote({0, 5})); // by itself
    bench.tier.finish_promotions();
    std::vector<uint16_t> order;
    while (const std::optional<ExpertKey> key = bench.tier.next_displaced()) {
        order.push_back(key->expert_idx);
        REQUIRE(bench.promote(*key));
        if (order.size() % 2 == 0) {
            bench.tier.finish_promotions();
        }
    }
    bench.tier.finish_promotions();
    CHECK(order == std::vector<uint16_t>{6, 4, 3, 2});
    CHECK(resident(bench, 0) == std::vector<uint16_t>{0, 1, 2, 3, 4, 5, 6});
    CHECK(bench.tier.stats().resident_bytes[0] == 7 * 8'500);
}

TEST_CASE("no more come back at once than the link needs to be busy") {
    TierBench bench(two_layers(), 8, 0.2);
    fill(bench, 5);
    {
        Staging staging(bench.tier);
        staging.borrow(0);
    }
    bench.tier.take_back();
    const auto hold = std::make_shared<int>(0);
    REQUIRE(bench.promote({1, 0}, hold));
    REQUIRE(bench.promote({1, 1}, hold)); // some 3 ms
    const bool was_busy = hold.use_count() == 3;
    const bool has_next = bench.tier.next_displaced().has_value();
    CHECK((!has_next || !was_busy || hold.use_count() < 3));
    bench.tier.finish_promotions();
    CHECK(bench.tier.next_displaced());
}

TEST_CASE("slots that a step uses are waited for") {
    TierBench bench(two_layers(), 8);
    fill(bench, 3);
    auto              step = bench.tier.begin(bench.model.keys(0, {1}));
    std::atomic<bool> is_lent{false};
    std::thread       borrower([&] {
        Staging staging(bench.tier);
        staging.borrow(0);
        is_lent = true;
    });
    while (resident(bench, 0) != std::vector<uint16_t>{1}) { // the others go at once
        std::this_thread::yield();
    }
    CHECK_FALSE(is_lent);
    CHECK_FALSE(bench.promote({1, 1}));
    CHECK(bench.is_right({0, 1}, step->slot(0)));
    step.reset();
    borrower.join();
    CHECK(is_lent);
    CHECK(resident(bench, 0).empty());
}

TEST_CASE("a promotion into a slot to be lent is waited for") {
    TierBench bench(two_layers(), 8, 0.2);
    bench.route(0, {1});
    REQUIRE(bench.promote({0, 1}));
    Staging staging(bench.tier);
    staging.borrow(0);
    CHECK(bench.tier.stats().copy.background_bytes == 8'500);
    CHECK(resident(bench, 0).empty());
    CHECK(bench.tier.stats().resident_bytes[0] == 0);
}

TEST_CASE("a layer that is there for good is not staged") {
    TierBench bench(two_layers(), 12);
    CHECK(bench.tier.can_stage(0));
    for (uint16_t e = 0; e < 8; e++) {
        REQUIRE(bench.promote({0, e}));
        bench.tier.finish_promotions();
    }
    bench.tier.fix_complete_layers();
    REQUIRE(bench.tier.held(0).first_idx == 0);
    CHECK_FALSE(bench.tier.can_stage(0));
    CHECK_FALSE(bench.tier.can_stage(1));
}

TEST_CASE("one borrows while another decodes") {
    TierBench        bench(two_layers(), 10, 0.002, false, OneUse::spare_slots);
    std::atomic<int> n_wrong{0}, n_done{0};
    const auto       prompt = [&](uint16_t layer_idx) {
        for (int pass = 0; pass < 30; pass++) {
            Staging staging(bench.tier);
            staging.borrow(layer_idx);
            const auto           step = bench.tier.begin(bench.model.keys(layer_idx, {0, 1, 2, 3, 4, 5, 6, 7}));
            std::vector<int32_t> buffers;
            for (uint16_t e = 0; e < 8; e++) {
                buffers.push_back(step->begin_staged({layer_idx, e}, 0, bench.source({layer_idx, e}, 0), true));
            }
            for (const int32_t buffer_idx : buffers) {
                step->wait_copy(buffer_idx);
            }
            const CopyLayout & layout = bench.layouts.of({layer_idx, 0});
            for (uint16_t e = 0; e < 8; e++) {
                const uint64_t place = bench.tier.staged_offset(layer_idx) +
                                       e * bench.layouts.classes[layout.class_idx].slot_bytes +
                                       layout.parts[0].data_offset;
                n_wrong += bench.model.is_right({layer_idx, e}, 0, bench.device.data(layout.class_idx, place)) ? 0 : 1;
            }
        }
        n_done++;
    };
    const auto decode = [&](uint16_t layer_idx) {
        for (uint16_t token = 0; n_done < 2; token++) {
            bench.tier.take_back();
            while (const std::optional<ExpertKey> key = bench.tier.next_displaced()) {
                bench.promote(*key);
            }
            const auto e    = static_cast<uint16_t>(token % 8);
            const auto next = static_cast<uint16_t>((token + 1) % 8);
            bench.route(layer_idx, {e, next});
            const auto step = bench.tier.begin(bench.model.keys(layer_idx, {e, next}));
            n_wrong += step->slot(0) && !bench.is_right({layer_idx, e}, step->slot(0)) ? 1 : 0;
            n_wrong += step->slot(1) && !bench.is_right({layer_idx, next}, step->slot(1)) ? 1 : 0;
            bench.promote({layer_idx, e});
            const int32_t buffer_idx = bench.copy(*step, {layer_idx, next}, 1, true); // the others decode likewise
            step->wait_copy(buffer_idx);
            n_wrong += bench.is_right({layer_idx, next}, 1, buffer_idx) ? 0 : 1;
            step->release(buffer_idx);
        }
    };
    std::vector<std::thread> threads;
    for (uint16_t i = 0; i < 2; i++) {
        threads.emplace_back(prompt, i);
        threads.emplace_back(decode, i);
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    bench.tier.finish_promotions();
    CHECK(n_wrong == 0);
}

} // namespace

} // namespace hobbit
