// Many threads over a loader that has hardly any room, with reads that fail and steps that are given up at any point.
// HOBBIT_STRESS_S (seconds of each case) and HOBBIT_STRESS_SEED make it longer, and another.
#include "loader_fixture.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <thread>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

constexpr uint32_t n_threads   = 16;
constexpr uint64_t least_steps = 8; // of each thread, however long that takes where the machine does other work

uint32_t number_of(const char * variable, uint32_t fallback) {
    const char * text = std::getenv(variable);
    return text == nullptr ? fallback : static_cast<uint32_t>(std::stoul(text));
}

// Passes reads on to a fake reader; one in `one_in` of them ends as an error all the same.
class UnreliableReader final : public Reader {
  public:
    UnreliableReader(const TinyModel & model, uint32_t one_in, uint32_t seed)
        : one_in_(one_in), seed_(seed), inner_(make_fake_reader(model.files, Bench::with_align({}))) {}

    void set_completion(Completion completion) override {
        inner_->set_completion([this, completion](uint64_t tag, const Status & status) {
            const bool fails = std::mt19937(seed_ + n_completed_++)() % one_in_ == 0;
            completion(tag, fails ? Status::error("made to fail", EIO) : status);
        });
    }
    void     submit(std::vector<ReadOp> ops) override { inner_->submit(std::move(ops)); }
    uint32_t queue_depth() const override { return inner_->queue_depth(); }
    uint32_t alignment() const override { return inner_->alignment(); }
    void     drain() override { inner_->drain(); }

  private:
    const uint32_t          one_in_;
    const uint32_t          seed_;
    std::atomic<uint32_t>   n_completed_{0};
    std::unique_ptr<Reader> inner_; // last: its threads use everything above
};

struct Stress {
    const TinyModel &     model;
    UnreliableReader      reader;
    Loader                loader;
    std::atomic<bool>     all_right{true};
    std::atomic<uint64_t> n_steps{0}, n_given_up{0}, n_errors{0};

    Stress(const TinyModel & tiny, const LoaderOptions & options, uint32_t seed)
        : model(tiny), reader(tiny, 40, seed),
          loader(
              tiny.layouts, tiny.n_expert(),
              [&tiny](ExpertKey key, uint32_t part_idx) { return tiny.extent(key, part_idx); }, reader, options) {}

    std::vector<ExpertKey> some_keys(std::mt19937 & rng, uint16_t layer_idx, size_t n_max) const {
        std::vector<uint16_t> experts(model.layers[layer_idx].n_expert);
        std::iota(experts.begin(), experts.end(), uint16_t{0});
        std::shuffle(experts.begin(), experts.end(), rng);
        experts.resize(1 + rng() % std::min(experts.size(), n_max));
        std::vector<ExpertKey> keys = model.keys(layer_idx, experts);
        for (ExpertKey & key : keys) {
            key.precision = rng() % 2 == 0 ? Precision::lo : Precision::hi;
        }
        return keys;
    }

    // Part by part, as the engine does; may end after any of them.
    void use(LoadStep & step, std::mt19937 & rng) {
        for (const uint32_t part_idx : {1u, 0u, 2u}) {
            std::vector<uint32_t> wanted(step.leases().size()), arrived;
            std::iota(wanted.begin(), wanted.end(), 0u);
            while (!wanted.empty()) {
                arrived.clear();
                if (!step.wait_any(part_idx, wanted, arrived).ok()) {
                    ++n_errors;
                    return;
                }
                for (const uint32_t i : arrived) {
                    if (!model.is_right(step.leases()[i].key, part_idx, step.data(i, part_idx))) {
                        all_right = false;
                    }
                    step.release_part(i, part_idx);
                }
                if (rng() % 32 == 0) {
                    ++n_given_up;
                    return;
                }
            }
        }
    }

    void run(uint32_t seed, std::chrono::steady_clock::time_point end) {
        std::mt19937 rng(seed);
        for (uint64_t i = 0; all_right && (i < least_steps || std::chrono::steady_clock::now() < end); ++i, ++n_steps) {
            const auto             layer_idx = static_cast<uint16_t>(rng() % model.layers.size());
            std::vector<ExpertKey> keys      = some_keys(rng, layer_idx, rng() % 8 == 0 ? 8 : 3);
            std::vector<int32_t>   routed;
            for (const ExpertKey & key : keys) {
                routed.push_back(key.expert_idx);
            }
            loader.on_route({layer_idx, static_cast<uint32_t>(routed.size()), 1, routed.data()});
            const auto step = loader.begin(keys, {1, 0, 2}, rng() % 4 == 0 ? Admission::if_better : Admission::always);
            if (rng() % 2 == 0) {
                const auto next = static_cast<uint16_t>((layer_idx + 1u) % model.layers.size());
                loader.prefetch(some_keys(rng, next, 4), {1, 0, 2});
            }
            if (rng() % 16 == 0) {
                ++n_given_up;
            } else {
                use(*step, rng);
            }
            switch (rng() % 256) {
            case 0:
                loader.clear();
                break;
            case 1:
                loader.warm(some_keys(rng, layer_idx, 8));
                break;
            case 2:
                loader.reset_sequence();
                break;
            case 3:
                (void)loader.hot_set();
                break;
            default:
                if (i % 16 == 0) {
                    loader.check_invariants();
                }
            }
        }
    }
};

void run_stress(const TinyModel & model, const LoaderOptions & options) {
    const uint32_t seed = number_of("HOBBIT_STRESS_SEED", 1);
    const auto     end =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(1000ull * number_of("HOBBIT_STRESS_S", 0) + 300);
    Stress                   stress(model, options, seed);
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < n_threads; i++) {
        threads.emplace_back([&stress, seed, i, end] { stress.run(seed * 1000 + i, end); });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    stress.reader.drain();
    stress.loader.check_invariants();
    CHECK(stress.all_right.load());
    CHECK(stress.n_steps.load() >= n_threads * least_steps);
    CHECK(stress.n_given_up.load() > 0);
    CHECK(stress.loader.stats().n_retries > 0);
    const LoaderStats stats = stress.loader.stats();
    MESSAGE(stress.n_steps.load() << " steps, " << stress.n_given_up.load() << " given up, " << stress.n_errors.load()
                                  << " failed, " << stats.n_reads << " reads, " << stats.n_retries << " repeated, "
                                  << stats.n_evictions << " evictions, " << stats.n_streamed << " streamed");
}

} // namespace

TEST_CASE("sixteen threads, no cache, a ring of three buffers") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {6, {1000, 1000, 700}}}, true);
    LoaderOptions   options;
    options.stream_bytes   = 0;
    options.max_read_bytes = 1024;
    run_stress(model, options);
}

TEST_CASE("sixteen threads, a cache smaller than one of their steps") {
    const TinyModel model({{8, {1024, 1024, 2048}}, {8, {1024, 1024, 2048}}, {6, {1000, 1000, 700}}}, true);
    LoaderOptions   options;
    options.stream_bytes        = 0;
    options.expert_memory_bytes = 3 * model.layouts.classes[0].slot_bytes + 6000;
    options.eviction.name       = number_of("HOBBIT_STRESS_SEED", 1) % 2 == 0 ? "lru" : "frequency";
    run_stress(model, options);
}
