#include "loader_fixture.h"

#include <cerrno>
#include <chrono>
#include <doctest/doctest.h>
#include <thread>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

const std::vector<uint32_t> three_parts = {1, 0, 2};

// Two layers of 16 experts; a copy is 4 KiB and 1.5 KiB of slack.
TinyModel two_layers() { return TinyModel({{16, {1024, 1024, 2048}}, {16, {1024, 1024, 2048}}}); }

LoaderOptions with_slots(uint64_t n_slots) {
    LoaderOptions options;
    options.expert_memory_bytes = n_slots * (4096 + 3 * TinyModel::align);
    return options;
}

bool right_after(Bench & bench, const std::vector<ExpertKey> & keys) {
    const auto step      = bench.loader.begin(keys, three_parts, Admission::always);
    bool       all_right = true;
    CHECK(bench.run(*step, three_parts, all_right).ok());
    return all_right;
}

} // namespace

TEST_CASE("what was read ahead is there when the step comes") {
    const TinyModel model = two_layers();
    Bench           bench(model, with_slots(32));
    for (const uint16_t expert_idx : {uint16_t{3}, uint16_t{9}}) { // one copy at a time, until the drive is measured
        bench.loader.prefetch(model.keys(1, {expert_idx}), three_parts);
        bench.reader->drain();
    }
    CHECK(bench.loader.stats().n_prefetched == 2);
    CHECK(bench.loader.stats().n_prefetch_used == 0);
    CHECK(right_after(bench, model.keys(1, {9, 3, 4})));
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_prefetch_used == 2);
    CHECK(stats.n_hits[0] + stats.n_misses[0] == 3);
    CHECK(stats.read_bytes[0] == 3 * 4096); // nothing twice
}

TEST_CASE("nothing is read ahead while a step waits for its own experts") {
    const TinyModel   model = two_layers();
    FakeReaderOptions slow;
    slow.latency_us = 3000;
    slow.n_threads  = 1;
    Bench      bench(model, with_slots(32), slow);
    const auto step = bench.loader.begin(model.keys(0, {0, 2, 4, 6, 8}), three_parts, Admission::always);
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    CHECK(bench.loader.stats().n_prefetched == 0);
    bool all_right = true;
    CHECK(bench.run(*step, three_parts, all_right).ok());
    CHECK(all_right);
}

TEST_CASE("a new step drops the guesses that were not begun, and joins those that were") {
    const TinyModel   model = two_layers();
    FakeReaderOptions slow;
    slow.latency_us = 20000; // long against what this thread does meanwhile, under an emulator too
    slow.n_threads  = 1;
    Bench bench(model, with_slots(32), slow);
    bench.loader.prefetch(model.keys(1, {3, 5, 7, 9}), three_parts);
    CHECK(right_after(bench, model.keys(1, {3, 4})));
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_prefetched == 1);
    CHECK(stats.n_prefetch_used == 1);
    CHECK(stats.read_bytes[0] == 2 * 4096);
}

TEST_CASE("a cache too small for guesses does without") {
    const TinyModel model = two_layers(); // two experts used a token: below eight slots
    Bench           bench(model, with_slots(7));
    bench.loader.prefetch(model.keys(1, {3, 9}), three_parts);
    bench.reader->drain();
    CHECK(bench.loader.stats().n_prefetched == 0);
}

TEST_CASE("what fits as a whole is read without being asked for") {
    const TinyModel model   = two_layers();
    LoaderOptions   options = with_slots(32);
    options.fill            = true;
    Bench bench(model, options);
    for (int i = 0; i < 64; i++) { // a completion begins the next copy
        bench.reader->drain();
    }
    CHECK(bench.loader.residency(0, Precision::hi) == std::vector<uint8_t>(16, 2));
    CHECK(bench.loader.residency(1, Precision::hi) == std::vector<uint8_t>(16, 2));
    CHECK(right_after(bench, model.keys(1, {0, 7, 15})));
    CHECK(bench.loader.stats().n_misses[0] == 0);
    CHECK(bench.loader.stats().read_bytes[0] == 32 * 4096);
}

TEST_CASE("what does not fit as a whole is read when it is asked for") {
    const TinyModel model   = two_layers();
    LoaderOptions   options = with_slots(31);
    options.fill            = true;
    Bench bench(model, options);
    bench.reader->drain();
    CHECK(bench.loader.stats().n_reads == 0);
}

TEST_CASE("the hot set of a run before is read into free slots, the hottest first") {
    const TinyModel model = two_layers();
    Bench           bench(model, with_slots(8));
    CHECK(right_after(bench, model.keys(0, {0, 1, 2})));
    // One is here already, three are not of this model, and of the rest five find a slot.
    std::vector<ExpertKey> keys = model.keys(1, {9, 3, 5, 7, 11, 13, 15});
    keys.insert(keys.begin(), model.keys(0, {1})[0]);
    keys.insert(keys.begin(), {{7, 0, Precision::hi}, {0, 16, Precision::hi}, {0, 0, Precision::lo}});
    bench.loader.warm(keys);
    for (int i = 0; i < 16; i++) { // a completion begins the next copy
        bench.reader->drain();
    }
    CHECK(bench.loader.stats().read_bytes[0] == 8 * 4096);
    CHECK(bench.loader.stats().n_evictions == 0);
    CHECK(bench.loader.stats().n_prefetched == 0);
    const std::vector<uint8_t> resident = bench.loader.residency(1, Precision::hi);
    for (const uint16_t expert_idx : {9, 3, 5, 7, 11}) {
        CHECK(resident[expert_idx] == 2);
    }
    // A new copy takes the place of the last one; those that a token chose have more worth than all of them.
    const int32_t routed[] = {0, 1, 2};
    bench.loader.on_route({0, 3, 1, routed, nullptr});
    CHECK(right_after(bench, model.keys(0, {0, 1, 2})));
    const int32_t missing[] = {15};
    bench.loader.on_route({1, 1, 1, missing, nullptr});
    CHECK(right_after(bench, model.keys(1, {15})));
    CHECK(bench.loader.residency(1, Precision::hi)[11] == 0);
    CHECK(bench.loader.residency(1, Precision::hi)[9] == 2);
    const std::vector<ExpertKey> hot = bench.loader.hot_set();
    REQUIRE(hot.size() == 8);
    CHECK(hot[4] == model.keys(1, {9})[0]);
    CHECK(hot[7] == model.keys(1, {7})[0]);
}

TEST_CASE("a guess that cannot be read leaves no trace") {
    const TinyModel   model = two_layers();
    FakeReaderOptions broken;
    broken.events = {{0, 0, EIO, false}, {1, 0, EIO, false}, {2, 0, EIO, false}, {3, 0, EIO, false}};
    Bench bench(model, with_slots(32), broken);
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    for (int i = 0; i < 4; i++) { // a retry each
        bench.reader->drain();
    }
    CHECK(right_after(bench, model.keys(1, {3})));
}

namespace {

// Steps that find everything leave windows in which the drive is idle: they are saved up for upgrades.
void save_windows(Bench & bench, const std::vector<ExpertKey> & resident) {
    for (int i = 0; i < 50; i++) {
        CHECK(right_after(bench, resident));
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
}

} // namespace

TEST_CASE("an expert served in lo is read in hi while the drive is idle") {
    const TinyModel model({{16, {1024, 1024, 2048}}, {16, {1024, 1024, 2048}}}, true);
    LoaderOptions   options;
    options.expert_memory_bytes = 1 << 20;
    Bench bench(model, options);
    save_windows(bench, model.keys(0, {1, 2}));
    CHECK(right_after(bench, model.keys(0, {3}, Precision::lo)));
    bench.loader.upgrade(model.keys(0, {3}));
    CHECK(bench.loader.stats().n_upgraded == 0); // only once nothing is wanted
    CHECK(right_after(bench, model.keys(0, {3}, Precision::lo)));
    bench.reader->drain();
    CHECK(bench.loader.stats().n_upgraded == 1);
    const uint64_t n_misses = bench.loader.stats().n_misses[0];
    CHECK(right_after(bench, model.keys(0, {3})));
    CHECK(bench.loader.stats().n_misses[0] == n_misses); // it is there
}

TEST_CASE("an upgrade takes no slot of a copy that is worth more, and no time that there was not") {
    const TinyModel model({{16, {1024, 1024, 2048}}}, true);
    LoaderOptions   options;
    options.expert_memory_bytes = 4 * (4096 + 3 * TinyModel::align);
    options.lo_share            = 0.5; // two slots for hi copies
    Bench      bench(model, options);
    const auto route = [&](const std::vector<int32_t> & ids) {
        bench.loader.on_route({0, static_cast<uint32_t>(ids.size()), 1, ids.data(), nullptr});
    };
    bench.loader.upgrade(model.keys(0, {5}));
    CHECK(right_after(bench, model.keys(0, {5}, Precision::lo)));
    CHECK(bench.loader.stats().n_upgraded == 0); // no window was measured yet
    for (int i = 0; i < 20; i++) {
        route({1, 2});
        save_windows(bench, model.keys(0, {1, 2}));
    }
    route({5});
    bench.loader.upgrade(model.keys(0, {5}));
    CHECK(right_after(bench, model.keys(0, {5}, Precision::lo)));
    bench.reader->drain();
    CHECK(bench.loader.stats().n_upgraded == 0);
    CHECK(bench.loader.residency(0, Precision::hi)[1] == 2);
    CHECK(bench.loader.residency(0, Precision::hi)[2] == 2);
}

TEST_CASE("a guess that came late for a step that does without it is read to its end") {
    const TinyModel   model({{16, {1024, 1024, 2048}}, {16, {1024, 1024, 2048}}}, true);
    FakeReaderOptions slow;
    slow.latency_us = 20000;
    slow.n_threads  = 1;
    LoaderOptions options;
    options.expert_memory_bytes = 1 << 20;
    Bench bench(model, options, slow);
    bench.loader.prefetch(model.keys(1, {3}), three_parts);
    bench.loader.upgrade(model.keys(1, {3}));
    CHECK(right_after(bench, model.keys(1, {3}, Precision::lo)));
    bench.reader->drain();
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.prefetch_late_bytes == 4096);
    CHECK(stats.prefetch_cancelled_bytes == 0);
    CHECK(bench.loader.residency(1, Precision::hi)[3] == 2);
}
