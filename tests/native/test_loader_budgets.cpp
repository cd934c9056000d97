// What may be read while nothing is wanted: of guesses in one window, of upgrades over many.
#include "loader/prefetch_budget.h"
#include "loader/upgrade_budget.h"

#include <doctest/doctest.h>

using namespace hobbit;

namespace {

constexpr uint64_t mib = 1 << 20;

// Steps that begin every 10 ms and have what they want 4 ms later, from a drive that brings 1 MiB in 1 ms.
void run_steps(PrefetchBudget & budget, int n_steps, uint64_t first_us = 1) {
    for (int i = 0; i < n_steps; i++) {
        const uint64_t now_us = first_us + static_cast<uint64_t>(i) * 10000;
        budget.on_step(now_us);
        budget.on_submit(now_us);
        budget.on_complete(now_us + 4000, 4 * mib, 0);
        budget.on_free(now_us + 4000);
    }
}

} // namespace

TEST_CASE("a budget that knows nothing yet lets one copy through") {
    PrefetchBudget budget;
    CHECK(budget.take() == 1);
    CHECK(budget.idle_bytes() == 1);
}

TEST_CASE("a window's worth is what the drive brings in it, less some room, and for guesses more") {
    PrefetchBudget budget;
    run_steps(budget, 50);
    CHECK(budget.step_us() == doctest::Approx(10000));
    CHECK(budget.window_us() == doctest::Approx(6000));
    CHECK(budget.read_bytes_s() == doctest::Approx(1000.0 * mib));
    CHECK(static_cast<double>(budget.idle_bytes()) == doctest::Approx(0.8 * 6 * mib));
    CHECK(static_cast<double>(budget.take()) == doctest::Approx(2.0 * 6 * mib));
}

TEST_CASE("guesses have the less the fewer of them are wanted, and nothing if most are not") {
    const auto taken_of = [](int n_wanted_of_six) {
        PrefetchBudget budget;
        run_steps(budget, 50);
        for (int i = 0; i < 600; i++) {
            budget.on_judged(i % 6 < n_wanted_of_six);
        }
        return static_cast<double>(budget.take()) / mib;
    };
    CHECK(taken_of(5) == doctest::Approx(2.0 * 5 / 6 * 6).epsilon(0.1));
    CHECK(taken_of(4) == doctest::Approx(2.0 * 4 / 6 * 6).epsilon(0.1));
    CHECK(taken_of(2) == 0.0);
}

TEST_CASE("steps that never have all they want leave no window") {
    PrefetchBudget budget;
    for (uint64_t now_us = 1; now_us < 500000; now_us += 10000) {
        budget.on_step(now_us);
        budget.on_submit(now_us);
        budget.on_complete(now_us + 9000, 9 * mib, 1);
    }
    CHECK(budget.window_us() == doctest::Approx(1));
    CHECK(budget.idle_bytes() < 2000);
}

TEST_CASE("guesses that nobody wants close the budget but for a trial, until one is wanted") {
    PrefetchBudget budget;
    run_steps(budget, 50);
    for (int i = 0; i < 200; i++) {
        budget.on_judged(false);
    }
    uint64_t n_bytes  = 0;
    int      n_trials = 0;
    for (int i = 0; i < 640; i++) {
        const uint64_t taken = budget.take();
        n_bytes += taken;
        n_trials += taken > 0 ? 1 : 0;
    }
    CHECK(n_trials == 10);
    CHECK(n_bytes == 10);           // each of one copy
    CHECK(budget.idle_bytes() > 0); // the drive is as idle as before
    for (int i = 0; i < 200; i++) {
        budget.on_judged(true);
    }
    CHECK(budget.take() > 4 * mib);
}

TEST_CASE("windows too short for an upgrade are saved up, to a limit") {
    UpgradeBudget budget;
    CHECK_FALSE(budget.allows(1));
    for (int i = 0; i < 7; i++) {
        budget.save(mib);
    }
    CHECK(budget.allows(7 * mib));
    CHECK_FALSE(budget.allows(7 * mib + 1));
    budget.spend(5 * mib);
    CHECK(budget.allows(2 * mib));
    CHECK_FALSE(budget.allows(2 * mib + 1));
    for (int i = 0; i < 1000; i++) {
        budget.save(mib);
    }
    CHECK(budget.allows(64 * mib));
    CHECK_FALSE(budget.allows(64 * mib + 1));
}

TEST_CASE("guesses that took more than their windows cost upgrades one window, however many they were") {
    for (const int n_windows : {1, 1000}) { // the latter for minutes, a gigabyte more than there was time for
        UpgradeBudget budget;
        for (int i = 0; i < n_windows; i++) {
            budget.save(mib);
            budget.spend(2 * mib);
        }
        budget.save(mib);
        CHECK_FALSE(budget.allows(1)); // the window that makes it good
        budget.save(mib);
        CHECK(budget.allows(mib));
    }
}
