// The engine's invariants for reads on a guess, one scenario each; test_loader_guesses_random.cpp mixes them.
#include "manual_reader.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

const std::vector<uint32_t> three_parts = {1, 0, 2};
constexpr uint64_t          copy_bytes  = 4096;

// A copy is 4 KiB in three extents that do not touch: three operations.
TinyModel two_layers() { return TinyModel({{16, {1024, 1024, 2048}}, {17, {1024, 1024, 2048}}}); }

LoaderOptions with_slots(uint64_t n_slots) {
    LoaderOptions options;
    options.expert_memory_bytes = n_slots * (copy_bytes + 3 * TinyModel::align);
    return options;
}

size_t n_pending_of(const ManualBench & bench, ExpertKey key) {
    const auto & ops = bench.reader.pending();
    return static_cast<size_t>(
        std::count_if(ops.begin(), ops.end(), [&](const ReadOp & op) { return bench.reader.reads(op, key); }));
}

std::unique_ptr<LoadStep> begin(ManualBench & bench, uint16_t layer_idx, const std::vector<uint16_t> & experts) {
    return bench.loader.begin(bench.model.keys(layer_idx, experts), three_parts, Admission::always);
}

bool is_resident(const ManualBench & bench, uint16_t layer_idx, int32_t expert_idx) {
    Resident best = Resident::none;
    bench.loader.find_resident(layer_idx, &expert_idx, 1, &best);
    return best == Resident::hi;
}

void make_resident(ManualBench & bench, uint16_t layer_idx, const std::vector<uint16_t> & experts) {
    const auto step = begin(bench, layer_idx, experts);
    bench.reader.drain();
}

} // namespace

TEST_CASE("a guess that is wanted is promoted, not queued twice") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    CHECK(bench.reader.pending().size() == 2); // of three: half of the reader's threads
    const auto step = begin(bench, 1, {3, 4});
    CHECK(n_pending_of(bench, {1, 3, Precision::hi}) == 3);
    CHECK(n_pending_of(bench, {1, 4, Precision::hi}) == 3);
    bench.reader.drain();
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_reads == 6);
    CHECK(stats.read_bytes[0] == 2 * copy_bytes);
    CHECK(stats.prefetch_late_bytes == copy_bytes);
    CHECK(stats.n_prefetch_late == 1);
}

TEST_CASE("a copy that is being read is coming, and resident once it is complete") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    const auto      coming = [&bench](int32_t expert_idx) {
        Resident best = Resident::none;
        bench.loader.find_coming(1, &expert_idx, 1, &best);
        return best == Resident::hi;
    };
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    CHECK(coming(3));
    CHECK_FALSE(is_resident(bench, 1, 3));
    CHECK_FALSE(coming(4));
    bench.reader.drain();
    CHECK(coming(3));
    CHECK(is_resident(bench, 1, 3));
    bench.loader.prefetch(model.keys(1, {5}), three_parts);
    const auto step = begin(bench, 1, {4});
    CHECK(coming(4));
    CHECK_FALSE(coming(5)); // given up, though a part of it is still being read
    bench.reader.drain();
}

TEST_CASE("a guess stays one while it is copied on a guess, until a step wants it") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    bench.reader.drain();
    {
        const auto copied = bench.loader.pin_resident(model.keys(1, {3}));
        CHECK(copied->leases().size() == 1);
        bench.loader.check_invariants();
        bench.loader.prefetch(model.keys(1, {3}), three_parts);
        CHECK(bench.loader.stats().prefetch_useful_bytes == 0);
        const auto step = begin(bench, 1, {3});
        bench.loader.check_invariants();
        CHECK(bench.loader.stats().prefetch_useful_bytes == copy_bytes);
    }
    bench.loader.check_invariants();
}

TEST_CASE("a guess that was wrong is given up between two reads") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    const auto step = begin(bench, 1, {4});
    CHECK(n_pending_of(bench, {1, 3, Precision::hi}) == 2); // in flight, cannot be called back
    bench.reader.drain();
    const LoaderStats stats = bench.loader.stats();
    CHECK_FALSE(is_resident(bench, 1, 3));
    CHECK(bench.loader.residency(1, Precision::hi)[3] == 0);
    CHECK(stats.prefetch_cancelled_bytes == 2048);
    CHECK(stats.prefetch_wasted_bytes == 2048);
    CHECK(stats.read_bytes[0] == copy_bytes + 2048);
    CHECK(stats.resident_bytes[0] == copy_bytes);
}

TEST_CASE("a wrong guess is read to its end where every copy has a slot") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(33));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    const auto step = begin(bench, 1, {4});
    bench.reader.drain();
    CHECK(is_resident(bench, 1, 3));
    CHECK(bench.loader.stats().prefetch_cancelled_bytes == 0);
}

TEST_CASE("a copy whose guess was given up can be wanted at once") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    bench.loader.prefetch({}, three_parts); // the slot is still being read into
    const auto step = begin(bench, 1, {3});
    CHECK_FALSE(step->leases()[0].slot);
    bench.reader.drain();
    CHECK(step->ready(0, 0));
    CHECK(model.is_right({1, 3, Precision::hi}, 0, step->data(0, 0)));
}

TEST_CASE("a guess about a later layer waits for what is wanted and then goes on") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    const auto step = begin(bench, 0, {1, 2});
    CHECK(n_pending_of(bench, {1, 3, Precision::hi}) == 2); // no third one before the reads that are wanted
    CHECK(n_pending_of(bench, {0, 1, Precision::hi}) + n_pending_of(bench, {0, 2, Precision::hi}) == 6);
    bench.reader.drain();
    CHECK(is_resident(bench, 1, 3));
    CHECK(bench.loader.stats().prefetch_cancelled_bytes == 0);
}

TEST_CASE("one thread reads one guess at a time") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32), 1);
    bench.loader.prefetch(model.keys(1, {3, 4}), three_parts);
    CHECK(bench.reader.pending().size() == 1);
}

TEST_CASE("what is wanted breaks the pins of predictions, guesses do not") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(8));
    make_resident(bench, 1, {0, 1, 2, 3, 4, 5, 6, 7});
    bench.loader.prefetch(model.keys(1, {0, 1, 2, 3, 4, 5, 6, 7, 8}), three_parts);
    CHECK(bench.loader.stats().n_prefetched == 0); // everything resident is predicted itself
    const auto step = begin(bench, 0, {0, 1, 2, 3, 4, 5, 6, 7});
    bench.reader.drain();
    CHECK(bench.loader.stats().n_streamed == 0);
    CHECK(bench.loader.stats().n_evictions == 8);
}

TEST_CASE("a predicted copy outlives one of lower worth and one of higher") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(8));
    make_resident(bench, 1, {0, 1, 2, 3, 4, 5, 6, 7});
    const int32_t often[] = {1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    bench.loader.on_route({1, 1, 14, often});
    bench.loader.prefetch(model.keys(1, {0}), three_parts);
    make_resident(bench, 0, {9});
    CHECK(is_resident(bench, 1, 0));
}

TEST_CASE("what is wanted takes the slot of a guess that was not begun to be read") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(8));
    const auto      held = begin(bench, 0, {0, 1, 2, 3, 4, 5, 6});
    bench.reader.drain();
    bench.loader.prefetch(model.keys(1, {3}), three_parts); // into the last slot
    CHECK(n_pending_of(bench, {1, 3, Precision::hi}) == 2);
    const auto other = begin(bench, 0, {8}); // every slot is pinned or being read into
    CHECK(bench.loader.stats().prefetch_cancelled_bytes == 2048);
    CHECK(bench.loader.stats().n_streamed == 1);
    bench.reader.drain();
    const auto next = begin(bench, 0, {9});
    CHECK(next->leases()[0].slot); // now it is free
}

TEST_CASE("few slots for hi copies are enough for guesses where few hi copies are wanted") {
    const TinyModel model({{16, {1024, 1024, 2048}}, {17, {1024, 1024, 2048}}}, /*has_lo=*/true);
    LoaderOptions   options;
    options.lo_share            = 0.75;
    options.expert_memory_bytes = 24 * (copy_bytes + 3 * TinyModel::align);
    ManualBench bench(model, options);
    REQUIRE(bench.loader.n_slots(0) < 8); // four times the two experts that a token uses
    const auto n_read_ahead = [&](Precision precision) {
        const uint64_t n_before = bench.loader.stats().n_prefetched;
        bench.loader.prefetch(model.keys(1, {3}, precision), three_parts);
        bench.reader.drain();
        bench.loader.clear();
        return bench.loader.stats().n_prefetched - n_before;
    };
    CHECK(n_read_ahead(Precision::hi) == 0);
    CHECK(n_read_ahead(Precision::lo) == 1);
    for (uint16_t i = 0; i < 400; i++) {
        const auto step = bench.loader.begin(model.keys(1, {5, 6}, Precision::lo), three_parts, Admission::always);
        bench.reader.drain();
    }
    CHECK(n_read_ahead(Precision::hi) == 1);
    for (uint16_t i = 0; i < 400; i++) {
        make_resident(bench, 1, {5, 6});
    }
    CHECK(n_read_ahead(Precision::hi) == 0);
}

TEST_CASE("guesses that nobody wants close the budget, one that is wanted now and then opens it") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    for (uint16_t i = 0; i < 400; i++) {
        bench.loader.prefetch(model.keys(1, {static_cast<uint16_t>(i % 8)}), three_parts);
        bench.reader.drain();
        bench.loader.clear(); // gone before anybody wanted it
        make_resident(bench, 1, {15});
    }
    const uint64_t n_begun = bench.loader.stats().n_prefetched;
    CHECK(n_begun > 20);
    CHECK(n_begun < 60);
    for (uint16_t i = 0; i < 4000; i++) {
        bench.loader.prefetch(model.keys(1, {static_cast<uint16_t>(i % 8)}), three_parts);
        bench.reader.drain();
        make_resident(bench, 1, {static_cast<uint16_t>(i % 8)});
        bench.loader.clear();
    }
    CHECK(bench.loader.stats().n_prefetched > n_begun + 1000);
}

TEST_CASE("what is resident can be computed before anything that is missing has come") {
    const TinyModel model = two_layers();
    ManualBench     bench(model, with_slots(32));
    make_resident(bench, 0, {1, 6});
    const auto step = begin(bench, 0, {5, 1, 6});
    CHECK_FALSE(bench.reader.pending().empty());
    for (const uint32_t part_idx : three_parts) {
        CHECK_FALSE(step->ready(0, part_idx));
        CHECK(step->ready(1, part_idx));
        CHECK(step->ready(2, part_idx));
    }
    // Without a wait: the thread that computes is not stopped by what is on its way.
    std::vector<uint32_t> wanted = {0, 1, 2}, arrived;
    CHECK(step->wait_any(1, wanted, arrived).ok());
    CHECK(arrived == std::vector<uint32_t>{1, 2});
    CHECK(wanted == std::vector<uint32_t>{0});
}
