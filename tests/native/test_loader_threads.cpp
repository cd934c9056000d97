#include "loader_fixture.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <numeric>
#include <random>
#include <thread>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

// One context: random layers, experts and admissions, every byte checked.
struct Context {
    uint64_t n_errors  = 0;
    bool     all_right = true;

    void run(Bench & bench, uint32_t seed, int n_steps, bool has_lo) {
        std::mt19937 rng(seed);
        for (int i = 0; i < n_steps; i++) {
            const auto            layer_idx = static_cast<uint16_t>(rng() % bench.model.layers.size());
            std::vector<uint16_t> experts(bench.model.layers[layer_idx].n_expert);
            std::iota(experts.begin(), experts.end(), uint16_t{0});
            std::shuffle(experts.begin(), experts.end(), rng);
            experts.resize(1 + rng() % (rng() % 8 == 0 ? experts.size() : 3));
            if (rng() % 2 == 0) {
                std::sort(experts.begin(), experts.end());
            }
            std::vector<int32_t> routed(experts.begin(), experts.end());
            bench.loader.on_route({layer_idx, static_cast<uint32_t>(routed.size()), 1, routed.data()});

            std::vector<ExpertKey> keys = bench.model.keys(layer_idx, experts);
            for (ExpertKey & key : keys) {
                key.precision = has_lo && rng() % 2 == 0 ? Precision::lo : Precision::hi;
            }
            const auto admission = rng() % 4 == 0 ? Admission::if_better : Admission::always;
            const auto step      = bench.loader.begin(keys, {1, 0, 2}, admission);
            if (rng() % 16 == 0) {
                continue; // given up before anything was used
            }
            n_errors += bench.run(*step, {1, 0, 2}, all_right).ok() ? 0 : 1;
            if (rng() % 64 == 0) {
                bench.loader.check_invariants();
            }
        }
    }
};

void run_contexts(Bench & bench, int n_steps, bool has_lo, bool errors_expected) {
    Context     a, b;
    std::thread thread([&] { b.run(bench, 2, n_steps, has_lo); });
    a.run(bench, 1, n_steps, has_lo);
    thread.join();
    CHECK(a.all_right);
    CHECK(b.all_right);
    CHECK((a.n_errors + b.n_errors > 0) == errors_expected);
    bench.reader->drain();
    bench.loader.check_invariants();
}

constexpr int n_steps = 1500;

} // namespace

TEST_CASE("two contexts share a ring of three buffers and no cache") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {6, {1000, 1000, 700}}});
    LoaderOptions   options;
    options.stream_bytes   = 0;
    options.max_read_bytes = 1024;
    Bench bench(model, options);
    run_contexts(bench, n_steps, false, false);
    CHECK(bench.loader.stats().resident_bytes[0] == 0);
}

TEST_CASE("two contexts share a cache smaller than a step") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {8, {1024, 1024, 2048}}, {6, {1000, 1000, 700}}}, true);
    for (const char * eviction : {"lru", "frequency"}) {
        LoaderOptions options;
        options.stream_bytes        = 0;
        options.expert_memory_bytes = 3 * model.layouts.classes[0].slot_bytes + 6000;
        options.eviction.name       = eviction;
        Bench bench(model, options);
        run_contexts(bench, n_steps, true, false);
        CHECK(bench.loader.stats().n_evictions > 0);
        CHECK(bench.loader.stats().n_streamed > 0);
    }
}

TEST_CASE("two contexts over a drive that fails now and then") {
    const TinyModel   model({{8, {1024, 1024, 2048}}, {8, {1024, 1024, 2048}}});
    FakeReaderOptions faulty;
    for (uint64_t i = 0; i < 400; i++) {
        faulty.events.push_back({50 + i * 3, 0, EIO, false});
        faulty.events.push_back({50 + i * 3 + 1, 0, i % 2 == 0 ? EIO : 0, false});
    }
    LoaderOptions options;
    options.stream_bytes        = 0;
    options.max_read_bytes      = 1024;
    options.expert_memory_bytes = 4 * model.layouts.classes[0].slot_bytes;
    Bench bench(model, options, faulty);
    run_contexts(bench, n_steps, false, true);
    CHECK(bench.loader.stats().n_retries > 0);
}
