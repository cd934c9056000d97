// A randomised state machine over the loader: steps, guesses, completions in any order, failures, sequences that end.
// check_invariants() after every move says that nothing is queued twice, pinned for ever, counted wrong or lost.
#include "manual_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

const std::vector<uint32_t> three_parts = {1, 0, 2};

class Machine {
  public:
    Machine(const TinyModel & model, const LoaderOptions & options, uint32_t seed, bool has_lo, bool may_fail)
        : bench_(model, options, 1 + seed % 4), rng_(seed), has_lo_(has_lo), may_fail_(may_fail) {}

    void run(int n_moves) {
        for (int i = 0; i < n_moves && !stuck; i++) {
            move();
            bench_.loader.check_invariants();
        }
        finish_step();
        bench_.reader.drain();
        bench_.loader.check_invariants();
    }

    LoaderStats stats() const { return bench_.loader.stats(); }

    bool all_right   = true;
    bool stuck       = false; // a step waits and no read is on its way
    bool has_delayed = false; // a guess was submitted while something wanted was not

  private:
    void move() {
        switch (rng_() % 16) {
        case 0:
        case 1:
        case 2:
            finish_step();
            begin_step();
            break;
        case 3:
        case 4:
        case 5:
            bench_.loader.prefetch(random_keys(4), three_parts);
            break;
        case 6:
            if (rng_() % 8 == 0) {
                bench_.loader.clear();
            }
            break;
        case 7:
            if (rng_() % 8 == 0) {
                step_.reset(); // given up before it was used: its reads go on
            }
            break;
        default:
            complete_one();
        }
    }

    ExpertKey random_key(uint16_t layer_idx) {
        const auto expert_idx = static_cast<uint16_t>(rng_() % bench_.model.layers[layer_idx].n_expert);
        return {layer_idx, expert_idx, has_lo_ && rng_() % 2 == 0 ? Precision::lo : Precision::hi};
    }

    // Of any layers if there are several, as a look-ahead makes them; distinct.
    std::vector<ExpertKey> random_keys(size_t max_n, int layer_idx = -1) {
        std::vector<ExpertKey> keys;
        for (size_t n = rng_() % (max_n + 1); n > 0; n--) {
            const auto layer = layer_idx < 0 ? rng_() % bench_.model.layers.size() : static_cast<uint64_t>(layer_idx);
            const ExpertKey key = random_key(static_cast<uint16_t>(layer));
            if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
                keys.push_back(key);
            }
        }
        return keys;
    }

    void begin_step() {
        const auto layer_idx = static_cast<uint16_t>(rng_() % bench_.model.layers.size());
        const auto keys      = random_keys(5, layer_idx);
        for (const ExpertKey key : keys) {
            const int32_t expert_idx = key.expert_idx;
            bench_.loader.on_route({layer_idx, 1, 1, &expert_idx});
        }
        wanted_.insert(wanted_.end(), keys.begin(), keys.end());
        const size_t n_before = bench_.reader.pending().size();
        step_ = bench_.loader.begin(keys, three_parts, rng_() % 4 == 0 ? Admission::if_better : Admission::always);
        note_submitted(n_before);
    }

    bool is_wanted(const ReadOp & op) const {
        const auto reads = [&](ExpertKey key) { return bench_.reader.reads(op, key); };
        return std::any_of(wanted_.begin(), wanted_.end(), reads);
    }

    bool has_unsubmitted() const {
        for (uint32_t i = 0; step_ && i < step_->leases().size(); i++) {
            const LoadStep::Lease & lease = step_->leases()[i];
            const auto &            ops   = bench_.reader.pending();
            // A slot's read that is neither done nor with the drive.
            if (lease.slot && !step_->ready(i, three_parts.back()) &&
                std::none_of(ops.begin(), ops.end(),
                             [&](const ReadOp & op) { return bench_.reader.reads(op, lease.key); })) {
                return true;
            }
        }
        return false;
    }

    void note_submitted(size_t n_before) {
        const auto & ops = bench_.reader.pending();
        for (size_t i = n_before; i < ops.size(); i++) {
            has_delayed = has_delayed || (!may_fail_ && !is_wanted(ops[i]) && has_unsubmitted());
        }
    }

    bool complete_one() {
        const size_t n = bench_.reader.pending().size();
        if (n == 0) {
            return false;
        }
        bench_.reader.complete(rng_() % n, may_fail_ && rng_() % 8 == 0);
        note_submitted(n - 1);
        return true;
    }

    // Goes through the live step in the order of use, as the engine does.
    void finish_step() {
        if (!step_) {
            return;
        }
        for (const uint32_t part_idx : three_parts) {
            std::vector<uint32_t> wanted, arrived;
            for (uint32_t i = 0; i < step_->leases().size(); i++) {
                wanted.push_back(i);
            }
            while (!wanted.empty()) {
                const bool any_ready =
                    std::any_of(wanted.begin(), wanted.end(), [&](uint32_t i) { return step_->ready(i, part_idx); });
                if (!any_ready && complete_one()) {
                    continue;
                }
                if (!any_ready && !may_fail_) {
                    stuck = true;
                    break;
                }
                arrived.clear();
                if (!step_->wait_any(part_idx, wanted, arrived).ok()) {
                    step_.reset();
                    return;
                }
                for (const uint32_t i : arrived) {
                    all_right =
                        all_right && bench_.model.is_right(step_->leases()[i].key, part_idx, step_->data(i, part_idx));
                    step_->release_part(i, part_idx);
                }
            }
        }
        step_.reset();
        if (bench_.reader.pending().empty()) {
            wanted_.clear();
        }
    }

    ManualBench               bench_;
    std::mt19937              rng_;
    const bool                has_lo_;
    const bool                may_fail_;
    std::unique_ptr<LoadStep> step_;
    std::vector<ExpertKey>    wanted_; // by it, and by those given up before it
};

void run(bool has_lo, bool may_fail) {
    const TinyModel model({{12, {1024, 1024, 2048}}, {12, {1024, 1024, 2048}}, {10, {1000, 1000, 700}}}, has_lo);
    uint64_t        n_useful = 0, n_late = 0, n_wasted = 0, cancelled_bytes = 0;
    for (uint32_t seed = 1; seed <= 60; seed++) {
        CAPTURE(seed);
        LoaderOptions options;
        options.max_read_bytes      = seed % 2 == 0 ? 512 : 65536;
        options.stream_bytes        = 0;
        options.expert_memory_bytes = (8 + seed % 20) * 6000;
        Machine machine(model, options, seed, has_lo, may_fail);
        machine.run(400);
        CHECK(machine.all_right);
        CHECK_FALSE(machine.stuck);
        CHECK_FALSE(machine.has_delayed);
        const LoaderStats stats = machine.stats();
        n_useful += stats.n_prefetch_used - stats.n_prefetch_late;
        n_late += stats.n_prefetch_late;
        n_wasted += stats.n_prefetch_wasted;
        cancelled_bytes += stats.prefetch_cancelled_bytes;
    }
    // Every fate of a guess was met.
    CHECK(n_useful > 0);
    CHECK(n_late > 0);
    CHECK(n_wasted > 0);
    CHECK(cancelled_bytes > 0);
}

} // namespace

TEST_CASE("any interleaving of steps and guesses keeps the invariants") { run(false, false); }

TEST_CASE("... with two copies of each expert") { run(true, false); }

TEST_CASE("... over a drive that fails") { run(true, true); }
