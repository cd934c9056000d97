#include "loader_fixture.h"

#include <doctest/doctest.h>

#include <cerrno>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

LoaderOptions with_memory(uint64_t n_bytes) {
    LoaderOptions options;
    options.expert_memory_bytes = n_bytes;
    options.stream_bytes        = 0;
    return options;
}

FakeReaderOptions failing(const std::vector<uint64_t> & op_numbers, bool short_read = false) {
    FakeReaderOptions options;
    options.n_threads = 1;
    for (const uint64_t n : op_numbers) {
        options.events.push_back({n, 0, short_read ? 0 : EIO, short_read});
    }
    return options;
}

bool contains(const Status & status, const std::string & text) {
    return status.message().find(text) != std::string::npos;
}

} // namespace

TEST_CASE("a read that fails once is repeated") {
    const TinyModel model({{8, {1024}}});
    for (const uint64_t memory : {0u, 1000000u}) {
        for (const bool short_read : {false, true}) {
            Bench bench(model, with_memory(memory), failing({0}, short_read));
            bool  all_right = true;
            CHECK(bench.run(*bench.loader.begin(model.keys(0, {3}), {0}, Admission::always), {0}, all_right).ok());
            CHECK(all_right);
            CHECK(bench.loader.stats().n_retries == 1);
            CHECK(bench.loader.stats().read_bytes[0] == 1024);
        }
    }
}

TEST_CASE("a read that fails twice ends the step with the reader's message, and the next step works") {
    const TinyModel model({{8, {1024}}});
    for (const uint64_t memory : {0u, 1000000u}) {
        Bench bench(model, with_memory(memory), failing({0, 1}));
        bool  all_right = true;
        {
            const auto   step   = bench.loader.begin(model.keys(0, {3}), {0}, Admission::always);
            const Status status = bench.run(*step, {0}, all_right);
            CHECK_FALSE(status.ok());
            CHECK(status.os_errno() == EIO);
            CHECK(contains(status, "fake file 0"));
            const uint64_t offset = model.extent({0, 3, Precision::hi}, 0).offset;
            CHECK(contains(status, "offset " + std::to_string(offset) + " "));
            CHECK_FALSE(step->ready(0, 0));
            bench.loader.check_invariants();
            CHECK(bench.loader.residency(0, Precision::hi)[3] == 0);
        }
        bench.loader.check_invariants();
        CHECK(bench.loader.stats().resident_bytes[0] == 0);
        CHECK(bench.loader.stats().read_bytes[0] == 0);
        CHECK(bench.run(*bench.loader.begin(model.keys(0, {3}), {0}, Admission::always), {0}, all_right).ok());
        CHECK(all_right);
        CHECK(bench.loader.stats().n_retries == 1);
    }
}

TEST_CASE("a copy that failed in a step which still lives is read anew by another") {
    const TinyModel model({{8, {1024, 1024}}});
    Bench           bench(model, with_memory(1 << 20), failing({0, 1, 2, 3}));
    bool            all_right = true;
    const auto      failed    = bench.loader.begin(model.keys(0, {3}), {0, 1}, Admission::always);
    CHECK_FALSE(bench.run(*failed, {0, 1}, all_right).ok());
    bench.reader->drain();
    const auto other = bench.loader.begin(model.keys(0, {3}), {0, 1}, Admission::always);
    CHECK_FALSE(bool(other->leases()[0].slot));
    CHECK(bench.run(*other, {0, 1}, all_right).ok());
    CHECK(all_right);
    bench.loader.check_invariants();
}

TEST_CASE("of neighbours read together only the one that cannot be read fails") {
    // One operation for all three; when it fails, each is read by itself, and the second of these fails again.
    const TinyModel model({{8, {1024}}}, false, 0);
    Bench           bench(model, with_memory(1 << 20), failing({0, 2}));
    const auto      step = bench.loader.begin(model.keys(0, {0, 1, 2}), {0}, Admission::always);
    bench.reader->drain();
    std::vector<uint32_t> wanted = {0, 1, 2}, arrived;
    CHECK_FALSE(step->wait_any(0, wanted, arrived).ok());
    CHECK(arrived == std::vector<uint32_t>{0, 2});
    CHECK(wanted == std::vector<uint32_t>{1});
    CHECK(model.is_right({0, 0, Precision::hi}, 0, step->data(0, 0)));
    CHECK(model.is_right({0, 2, Precision::hi}, 0, step->data(2, 0)));
    CHECK(bench.loader.stats().n_retries == 3);
    CHECK(bench.loader.stats().resident_bytes[0] == 2048);
}

TEST_CASE("one bad piece of a long matrix fails the matrix") {
    const TinyModel model({{4, {8192, 8192}}}, false, 0);
    LoaderOptions   options = with_memory(1 << 20);
    options.max_read_bytes  = 2048;
    // Two operations are in flight at a time: 0 and 1, then 2; 3 is the second piece again, ahead of the others.
    Bench      bench(model, options, failing({1, 3}));
    bool       all_right = true;
    const auto step      = bench.loader.begin(model.keys(0, {2}), {0, 1}, Admission::always);
    bench.reader->drain();
    CHECK_FALSE(bench.run(*step, {0}, all_right).ok());
    CHECK_FALSE(step->ready(0, 0));
    CHECK(step->ready(0, 1));
    CHECK(model.is_right({0, 2, Precision::hi}, 1, step->data(0, 1)));
    CHECK(bench.loader.residency(0, Precision::hi)[2] == 0);
    const LoaderStats stats = bench.loader.stats();
    CHECK(stats.n_reads == 9);
    CHECK(stats.n_retries == 1);
    CHECK(stats.read_bytes[0] == 7 * 2048);
    CHECK(stats.resident_bytes[0] == 0);
}

TEST_CASE("a truncated file is an error of its experts alone") {
    TinyModel model({{8, {1024}}});
    model.files[0].resize(model.files[0].size() - 100);
    Bench bench(model, with_memory(1 << 20));
    bool  all_right = true;
    for (int round = 0; round < 3; round++) {
        const auto   step   = bench.loader.begin(model.keys(0, {7}), {0}, Admission::always);
        const Status status = bench.run(*step, {0}, all_right);
        CHECK_FALSE(status.ok());
        CHECK(contains(status, "the file ends before"));
    }
    CHECK(bench.run(*bench.loader.begin(model.keys(0, {6, 5}), {0}, Admission::always), {0}, all_right).ok());
    CHECK(all_right);
}

TEST_CASE("reads of a dropped step are not repeated") {
    const TinyModel   model({{8, {1024}}});
    FakeReaderOptions options = failing({});
    for (uint64_t n = 0; n < 8; n++) {
        options.events.push_back({n, 50000, EIO, false}); // longer than begin() and the drop take
    }
    Bench bench(model, with_memory(0), options);
    bench.loader.begin(model.keys(0, {0, 1, 2, 3}), {0}, Admission::always);
    bench.reader->drain();
    bench.loader.check_invariants();
    CHECK(bench.loader.stats().n_retries == 0);
}
