// Cores go to the reads while they are what tokens wait for.
#include "moe/thread_share.h"

#include <doctest/doctest.h>

using namespace hobbit;

namespace {

void run(ThreadShare & share, int n_passes, double stall_share) {
    for (int i = 0; i < n_passes; i++) {
        share.on_pass(10000, static_cast<uint64_t>(stall_share * 10000));
    }
}

} // namespace

TEST_CASE("threads are spared while the drive is waited for, and not at once") {
    ThreadShare share;
    CHECK(share.n_computing(8, 1) == 8);
    run(share, 1, 0.9);
    CHECK(share.n_computing(8, 1) == 8);
    run(share, 20, 0.9);
    CHECK(share.n_computing(8, 1) == 7);
    CHECK(share.n_computing(8, 0) == 8);
    run(share, 100, 0.02);
    CHECK(share.n_computing(8, 1) == 8);
}

TEST_CASE("between the two limits all stays as it is") {
    ThreadShare share;
    run(share, 100, 0.2);
    CHECK(share.n_computing(8, 1) == 8);
    run(share, 100, 0.4);
    run(share, 100, 0.2);
    CHECK(share.n_computing(8, 1) == 7);
}

TEST_CASE("one thread is left to compute") {
    ThreadShare share;
    run(share, 100, 0.9);
    CHECK(share.n_computing(2, 4) == 1);
}
