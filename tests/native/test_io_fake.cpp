#include "doctest/doctest.h"
#include "io/fake_reader.h"
#include "io/read_op.h"
#include "io_support.h"

#include <cerrno>
#include <chrono>

using namespace hobbit;
using namespace hobbit_tests;

TEST_CASE("reads from memory") {
    const std::vector<std::byte> a      = random_bytes(5000, 1);
    const std::vector<std::byte> b      = random_bytes(5000, 2);
    const auto                   reader = make_fake_reader({a, b});
    Completions                  completions(*reader);
    const Target                 target(1000, 0, 512);
    CHECK(reader->alignment() == 512);
    CHECK(reader->queue_depth() == 2);
    CHECK(completions.read({1, 1, 77, false, target.segments({13, 512})}) == "");
    CHECK(target.holds(b, 77));
    CHECK(target.margins_untouched(0, 0));
}

TEST_CASE("overwrites the slack that a direct read would") {
    const std::vector<std::byte> bytes  = random_bytes(2000, 3);
    const auto                   reader = make_fake_reader({bytes});
    Completions                  completions(*reader);

    const Target inside(300, 700, 512);
    CHECK(completions.read({1, 0, 700, true, inside.segments()}) == "");
    CHECK(std::equal(inside.data() - 188, inside.data() + 324, bytes.begin() + 512));
    CHECK(inside.margins_untouched(188, 24));

    const Target at_end(100, 1900, 512);
    CHECK(completions.read({2, 0, 1900, true, at_end.segments()}) == "");
    CHECK(at_end.holds(bytes, 1900));
    CHECK(at_end.margins_untouched(1900 - 1536, 0));

    const Target incongruent(300, 701, 512);
    CHECK(completions.read({3, 0, 700, true, incongruent.segments()}) == "");
    CHECK(incongruent.margins_untouched(0, 0));
}

TEST_CASE("fails as scripted") {
    const std::vector<std::byte> bytes = random_bytes(2000, 4);
    FakeReaderOptions            options;
    options.events    = {{1, 0, EIO, false}, {2, 0, 0, true}};
    const auto reader = make_fake_reader({bytes}, options);

    Completions completions(*reader);
    for (const bool has_slack : {false, true}) {
        const Target target(100, 50, 512);
        const ReadOp op = {7, 0, 50, has_slack, target.segments()};
        if (!has_slack) {
            CHECK(completions.read(op) == "");
            CHECK(completions.read(op) == "cannot read 100 bytes at offset 50 of fake file 0: Input/output error");
            CHECK(completions.os_errno(7) == EIO);
        } else {
            CHECK(completions.read(op) ==
                  "cannot read 100 bytes at offset 50 of fake file 0: the file ends before the last of them");
            CHECK(std::equal(target.data(), target.data() + 99, bytes.begin() + 50));
            CHECK(target.data()[99] == untouched);
            CHECK(completions.read(op) == "");
        }
    }
    const Target target(1001, 0, 512);
    CHECK(completions.read({8, 0, 1000, false, target.segments()}) ==
          "cannot read 1001 bytes at offset 1000 of fake file 0: the file ends before the last of them");
}

TEST_CASE("latency decides the order of completions") {
    FakeReaderOptions     options;
    std::vector<uint64_t> expected;
    SUBCASE("one thread: as submitted") {
        options.n_threads = 1;
        options.events    = {{0, 20000, 0, false}};
        expected          = {0, 1, 2, 3};
    }
    SUBCASE("two threads: the others overtake") {
        options.n_threads = 2;
        options.events    = {{0, 300000, 0, false}};
        expected          = {1, 2, 3, 0};
    }
    const auto          reader = make_fake_reader({random_bytes(100, 5)}, options);
    Completions         completions(*reader);
    const Target        target(100, 0, 512);
    std::vector<ReadOp> ops;
    for (uint64_t tag = 0; tag < 4; ++tag) {
        ops.push_back({tag, 0, tag * 25, false, {{target.data() + tag * 25, 25}}});
    }
    reader->submit(std::move(ops));
    reader->drain();
    CHECK(completions.tags() == expected);
}

TEST_CASE("drain and destructor wait for what is queued") {
    FakeReaderOptions options;
    options.latency_us         = 5000;
    auto                reader = make_fake_reader({random_bytes(100, 6)}, options);
    Completions         completions(*reader);
    const Target        target(100, 0, 512);
    std::vector<ReadOp> ops;
    for (uint64_t tag = 0; tag < 10; ++tag) {
        ops.push_back({tag, 0, tag * 10, false, {{target.data() + tag * 10, 10}}});
    }
    const auto begin = std::chrono::steady_clock::now();
    reader->submit(std::move(ops));
    SUBCASE("drain") { reader->drain(); }
    SUBCASE("destructor") { reader.reset(); }
    CHECK(completions.tags().size() == 10);
    CHECK(std::chrono::steady_clock::now() - begin >= std::chrono::microseconds(5 * 5000)); // two at a time
}

TEST_CASE("congruence of an operation") {
    const Target target(4096, 100, 512);
    CHECK(is_congruent({0, 0, 100, true, target.segments()}, 512));
    CHECK(is_congruent({0, 0, 512 * 7 + 100, true, target.segments({412, 924})}, 512));
    CHECK_FALSE(is_congruent({0, 0, 100, false, target.segments()}, 512));
    CHECK_FALSE(is_congruent({0, 0, 101, true, target.segments()}, 512));
    CHECK_FALSE(is_congruent({0, 0, 100, true, target.segments({400})}, 512));
    CHECK_FALSE(is_congruent({0, 0, 100, true, target.segments({0})}, 512));
}

TEST_CASE("scatter starts and ends inside segments") {
    const std::vector<std::byte> bytes = random_bytes(300, 7);
    const Target                 target(300, 0, 512);
    const ReadOp                 op    = {0, 0, 0, false, target.segments({100, 100, 250})};
    uint64_t                     begin = 0;
    for (const uint64_t end : {50, 99, 260, 300}) {
        scatter(op, begin, bytes.data() + begin, end - begin);
        CHECK(std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(end), target.data()));
        CHECK(target.data()[end] == untouched);
        begin = end;
    }
}
