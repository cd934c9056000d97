#include "loader_fixture.h"

#include <doctest/doctest.h>

#include <random>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

const std::vector<uint32_t> three_parts = {1, 0, 2}; // up, gate, down: not the order of the file

LoaderOptions with_memory(uint64_t n_bytes) {
    LoaderOptions options;
    options.expert_memory_bytes = n_bytes;
    return options;
}

// Runs a step over these experts and returns its leases.
std::vector<LoadStep::Lease> run(Bench & bench, const std::vector<ExpertKey> & keys,
                                 const std::vector<uint32_t> & part_order, Admission admission = Admission::always) {
    const auto step      = bench.loader.begin(keys, part_order, admission);
    bool       all_right = true;
    CHECK(bench.run(*step, part_order, all_right).ok());
    CHECK(all_right);
    bench.loader.check_invariants();
    return step->leases();
}

} // namespace

TEST_CASE("misses are read once and then hit") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {8, {1024, 1024, 2048}}});
    Bench           bench(model, with_memory(1 << 20));
    const auto      first = run(bench, model.keys(0, {5, 1, 2}), three_parts);
    const auto      again = run(bench, model.keys(0, {2, 5, 7}), three_parts);
    CHECK_FALSE(first[0].hit);
    CHECK(again[0].hit);
    CHECK(again[1].hit);
    CHECK_FALSE(again[2].hit);
    CHECK(again[1].slot == first[0].slot);

    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_hits[0] == 2);
    CHECK(stats.n_misses[0] == 4);
    CHECK(stats.n_streamed == 0);
    CHECK(stats.read_bytes[0] == 4 * 4096);
    CHECK(stats.resident_bytes[0] == 4 * 4096);
    CHECK(bench.loader.residency(0, Precision::hi) == std::vector<uint8_t>{0, 2, 2, 0, 0, 2, 0, 2});
    CHECK(bench.loader.residency(1, Precision::hi) == std::vector<uint8_t>(8, 0));

    const int32_t experts[3] = {1, 3, 5};
    Resident      best[3];
    bench.loader.find_resident(0, experts, 3, best);
    CHECK(best[0] == Resident::hi);
    CHECK(best[1] == Resident::none);
    CHECK(best[2] == Resident::hi);

    bench.loader.clear();
    CHECK(bench.loader.stats().resident_bytes[0] == 0);
    CHECK(bench.loader.residency(0, Precision::hi) == std::vector<uint8_t>(8, 0));
}

TEST_CASE("bytes are right for any size, offset, piece length and memory") {
    for (const std::vector<uint64_t> & part_bytes :
         {std::vector<uint64_t>{1024, 1024, 2048}, {1000, 1000, 1700}, {4096, 520, 512}, {32, 8192, 6000}}) {
        for (const uint64_t first_offset : {0u, 96u, 512u}) {
            const TinyModel model({{8, part_bytes}, {6, part_bytes}}, true, first_offset);
            for (const uint64_t memory : {0u, 20000u, 60000u, 1000000u}) {
                for (const uint64_t max_read_bytes : {512u, 2048u, 65536u}) {
                    CAPTURE(part_bytes[0]);
                    CAPTURE(first_offset);
                    CAPTURE(memory);
                    CAPTURE(max_read_bytes);
                    LoaderOptions options  = with_memory(memory);
                    options.max_read_bytes = max_read_bytes;
                    options.stream_bytes   = 0;
                    Bench bench(model, options);
                    run(bench, model.keys(0, {0, 1, 2, 3, 4, 5, 6, 7}), three_parts);
                    run(bench, model.keys(1, {5, 0, 3}, Precision::lo), three_parts);
                    auto mixed = model.keys(0, {6, 2});
                    mixed.push_back({0, 1, Precision::lo});
                    run(bench, mixed, three_parts);
                    run(bench, model.keys(0, {7, 6, 5, 4, 3, 2, 1, 0}), three_parts);
                }
            }
        }
    }
}

TEST_CASE("without slots everything streams through three buffers") {
    const TinyModel model({{8, {1024, 1024, 2048}}});
    LoaderOptions   options = with_memory(0);
    options.stream_bytes    = 0;
    Bench bench(model, options);
    CHECK(bench.loader.arena_bytes() == 0);
    CHECK(bench.loader.stream_bytes() == 3 * (2048 + 512));
    for (const auto & lease : run(bench, model.keys(0, {0, 1, 2, 3, 4, 5, 6, 7}), three_parts)) {
        CHECK_FALSE(bool(lease.slot));
        CHECK_FALSE(lease.hit);
    }
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_streamed == 8);
    CHECK(stats.read_bytes[0] == 8 * 4096);
    CHECK(stats.resident_bytes[0] == 0);
}

TEST_CASE("with one slot a step fills it and streams the rest") {
    const TinyModel model({{8, {1024, 1024, 2048}}});
    const uint64_t  slot_bytes = model.layouts.classes[0].slot_bytes;
    Bench           bench(model, with_memory(slot_bytes));
    CHECK(bench.loader.n_slots(0) == 1);
    const auto first = run(bench, model.keys(0, {4, 5, 6}), three_parts);
    CHECK(bool(first[0].slot));
    CHECK_FALSE(bool(first[1].slot));
    const auto second = run(bench, model.keys(0, {5, 4}), three_parts);
    CHECK_FALSE(bool(second[0].slot)); // the only slot is needed for the other one
    CHECK(second[1].hit);
    const auto third = run(bench, model.keys(0, {7}), three_parts);
    CHECK(bool(third[0].slot));
    CHECK(bench.loader.stats().n_evictions == 1);
    CHECK(bench.loader.stats().n_streamed == 3);
}

TEST_CASE("if_better does not flush what scores higher") {
    const TinyModel model({{8, {1024, 1024}}});
    const uint64_t  slot_bytes = model.layouts.classes[0].slot_bytes;
    Bench           bench(model, with_memory(2 * slot_bytes));
    const int32_t   routed[4] = {0, 1, 0, 1};
    bench.loader.on_route({0, 2, 2, routed});
    run(bench, model.keys(0, {0, 1}), {0, 1});
    const int32_t prompt[1] = {6};
    bench.loader.on_route({0, 1, 1, prompt});
    CHECK_FALSE(bool(run(bench, model.keys(0, {6}), {0, 1}, Admission::if_better)[0].slot));
    CHECK(run(bench, model.keys(0, {0, 1}), {0, 1})[1].hit);
    CHECK(bool(run(bench, model.keys(0, {6}), {0, 1}, Admission::always)[0].slot));
    bench.loader.reset_sequence();
}

TEST_CASE("aligned neighbours are read together, others one by one") {
    const auto n_reads = [](uint64_t part_bytes, uint64_t first_offset, const std::vector<uint16_t> & experts) {
        const TinyModel model({{8, {part_bytes}}}, false, first_offset);
        LoaderOptions   options = with_memory(1 << 20);
        options.max_read_bytes  = 4096;
        Bench bench(model, options);
        run(bench, model.keys(0, experts), {0});
        return bench.loader.stats().n_reads;
    };
    CHECK(n_reads(1024, 0, {0, 1, 2, 3}) == 1);
    CHECK(n_reads(1024, 0, {0, 1, 2, 3, 4}) == 2); // 4096 bytes at most
    CHECK(n_reads(1024, 0, {0, 1, 3, 4}) == 2);
    CHECK(n_reads(1024, 0, {1, 0}) == 2);     // not in the order of use
    CHECK(n_reads(1024, 96, {0, 1, 2}) == 3); // they meet inside an aligned block
    CHECK(n_reads(1000, 0, {0, 1, 2}) == 3);
    CHECK(n_reads(10240, 0, {0}) == 3); // in pieces
    CHECK(n_reads(4096, 96, {0}) == 1); // no second read for the bytes before an aligned cut
}

TEST_CASE("streamed neighbours are merged too") {
    const TinyModel model({{8, {1024}}}, false, 0);
    LoaderOptions   options = with_memory(0);
    options.stream_bytes    = 0;
    Bench bench(model, options);
    run(bench, model.keys(0, {0, 1, 2}), {0});
    CHECK(bench.loader.stats().n_reads == 1);
}

TEST_CASE("a copy that another step is loading is joined, not read again") {
    const TinyModel   model({{8, {1024, 1024}}});
    FakeReaderOptions slow;
    slow.latency_us = 20000; // longer than both begin() take
    Bench      bench(model, with_memory(1 << 20), slow);
    const auto a = bench.loader.begin(model.keys(0, {0, 1}), {0, 1}, Admission::always);
    const auto b = bench.loader.begin(model.keys(0, {1, 2}), {0, 1}, Admission::always);
    CHECK(b->leases()[0].slot == a->leases()[1].slot);
    CHECK_FALSE(b->leases()[0].hit);
    CHECK_FALSE(b->all_hit());
    bool all_right = true;
    CHECK(bench.run(*b, {0, 1}, all_right).ok());
    CHECK(bench.run(*a, {0, 1}, all_right).ok());
    CHECK(all_right);
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_misses[0] == 4);
    CHECK(stats.read_bytes[0] == 3 * 2048);
    CHECK(stats.stall_us > 0);
    CHECK(bench.loader.begin(model.keys(0, {0, 1, 2}), {0, 1}, Admission::always)->all_hit());
}

TEST_CASE("parts arrive in any order and are used as they come") {
    const TinyModel model({{8, {1024, 1024, 1024}}});
    std::mt19937    rng(3);
    for (int round = 0; round < 20; round++) {
        FakeReaderOptions scattered;
        scattered.n_threads = 4;
        for (uint64_t i = 0; i < 48; i++) {
            scattered.events.push_back({i, rng() % 1000, 0, false});
        }
        LoaderOptions options = with_memory(3 * model.layouts.classes[0].slot_bytes);
        options.stream_bytes  = 0;
        Bench bench(model, options, scattered);
        run(bench, model.keys(0, {7, 3, 1, 0, 2}), three_parts);
        run(bench, model.keys(0, {3, 7, 6, 4, 5}), three_parts);
    }
}

TEST_CASE("a step that is dropped gives back its buffers") {
    const TinyModel   model({{8, {1024, 1024, 2048}}});
    FakeReaderOptions slow;
    slow.latency_us       = 500;
    LoaderOptions options = with_memory(2 * model.layouts.classes[0].slot_bytes);
    options.stream_bytes  = 0;
    Bench bench(model, options, slow);
    for (int round = 0; round < 20; round++) {
        bench.loader.begin(model.keys(0, {0, 1, 2, 3, 4, 5}), three_parts, Admission::always);
        bench.loader.check_invariants();
    }
    run(bench, model.keys(0, {7, 6, 5, 4, 3, 2, 1, 0}), three_parts);
}

TEST_CASE("what is resident can be pinned without a read, what is not gets no lease") {
    const TinyModel model({{8, {1024, 1024, 2048}}});
    Bench           bench(model, with_memory(3 * 4096));
    run(bench, model.keys(0, {5, 1}), three_parts);
    const LoaderStats before = bench.loader.stats();
    {
        const auto pinned = bench.loader.pin_resident(model.keys(0, {1, 2, 5}));
        REQUIRE(pinned->leases().size() == 2);
        CHECK(pinned->all_hit());
        CHECK(pinned->leases()[0].key.expert_idx == 1);
        CHECK(pinned->leases()[1].key.expert_idx == 5);
        for (uint32_t part_idx = 0; part_idx < 3; part_idx++) {
            CHECK(model.is_right(pinned->leases()[1].key, part_idx, pinned->data(1, part_idx)));
        }
        CHECK(bench.loader.stats().n_hits[0] == before.n_hits[0]);
        CHECK(bench.loader.stats().n_reads == before.n_reads);
        run(bench, model.keys(0, {0, 2, 3, 4, 6}), three_parts); // more than the third slot holds
        CHECK(bench.loader.residency(0, Precision::hi)[1] == 2);
        CHECK(bench.loader.residency(0, Precision::hi)[5] == 2);
    }
    run(bench, model.keys(0, {0, 2, 3}), three_parts);
    CHECK(bench.loader.residency(0, Precision::hi)[1] + bench.loader.residency(0, Precision::hi)[5] < 4);
}

TEST_CASE("a loader ends with reads in flight and queued") {
    const TinyModel   model({{8, {4096, 4096, 4096}}});
    FakeReaderOptions slow;
    slow.latency_us = 2000;
    for (const uint64_t memory : {0u, 40000u, 1000000u}) {
        LoaderOptions options  = with_memory(memory);
        options.max_read_bytes = 512;
        Bench bench(model, options, slow);
        bench.loader.begin(model.keys(0, {0, 1, 2, 3, 4, 5, 6, 7}), three_parts, Admission::always);
        CHECK(bench.loader.stats().read_bytes[0] < 8 * 3 * 4096);
    }
}

TEST_CASE("with room for all, every copy gets its own slot, and once all are complete the loader says so") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {8, {4096, 1024, 2048}}, {8, {1024, 1024, 2048}}});
    Bench           bench(model, with_memory(1 << 20));
    for (const auto & [layer_idx, own] : {std::pair<uint16_t, int32_t>{2, 8}, {1, 0}, {0, 0}}) {
        for (const auto & lease : run(bench, model.keys(layer_idx, {3, 7, 0}), three_parts)) {
            CHECK(lease.slot.slot_idx == own + lease.key.expert_idx);
        }
        CHECK_FALSE(bench.loader.holds_all());
    }
    for (uint16_t layer_idx = 0; layer_idx < 3; layer_idx++) {
        CHECK_FALSE(bench.loader.holds_all());
        run(bench, model.keys(layer_idx, {0, 1, 2, 3, 4, 5, 6, 7}), three_parts);
    }
    CHECK(bench.loader.holds_all());
    bench.loader.clear();
    CHECK_FALSE(bench.loader.holds_all());
}

TEST_CASE("the loader never holds all with a slot too few, nor with lo copies") {
    for (const bool has_lo : {false, true}) {
        const TinyModel model({{8, {1024, 1024, 2048}}}, has_lo);
        const uint64_t  slot_bytes = model.layouts.classes[0].slot_bytes;
        Bench           bench(model, with_memory(has_lo ? 1 << 20 : 7 * slot_bytes));
        for (uint16_t expert_idx = 0; expert_idx < 8; expert_idx++) {
            run(bench, model.keys(0, {expert_idx}), three_parts);
        }
        CHECK_FALSE(bench.loader.holds_all());
    }
}
