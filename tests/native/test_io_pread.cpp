#include "doctest/doctest.h"
#include "io/pread_reader.h"
#include "io_support.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>
#include <thread>

#include <fcntl.h>

using namespace hobbit;
using namespace hobbit_tests;

namespace {

constexpr uint64_t mib = 1 << 20;

// A folder without a drive below it, where there is one.
#ifdef __linux__
constexpr const char * in_memory = "/dev/shm";
#else
constexpr const char * in_memory = ".";
#endif

std::vector<std::byte> slurp(const std::string & path) {
    std::ifstream     in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto *      begin = reinterpret_cast<const std::byte *>(text.data());
    return {begin, begin + text.size()};
}

uint64_t pick(std::mt19937 & rng, uint64_t lo, uint64_t hi) {
    return std::uniform_int_distribution<uint64_t>(lo, hi)(rng);
}

} // namespace

TEST_CASE("alignment does not depend on whether reads are direct") {
    const TempFile file(random_bytes(10000, 1));
    const auto     direct   = make_pread_reader({file.path()});
    const auto     buffered = make_pread_reader({file.path()}, {2, false});
    CHECK(direct->alignment() >= 512);
    CHECK((direct->alignment() & (direct->alignment() - 1)) == 0);
    CHECK(buffered->alignment() == direct->alignment());
    CHECK(direct->queue_depth() == 4);
    CHECK(buffered->queue_depth() == 2);
}

TEST_CASE("random ranges arrive whole, with and without a bounce buffer") {
    const std::vector<std::byte> bytes = random_bytes(5 * mib + 1234, 2);
    const TempFile               file(bytes);
    bool                         direct = true;
    SUBCASE("direct") {}
    SUBCASE("buffered") { direct = false; }
    const auto     reader = make_pread_reader({file.path()}, {2, direct});
    Completions    completions(*reader);
    const uint64_t align = reader->alignment();

    std::mt19937 rng(3);
    for (uint64_t i = 0; i < 60; ++i) {
        const uint64_t n_bytes = i % 3 == 0 ? pick(rng, 1, 3 * mib) : pick(rng, 1, 20000);
        const uint64_t offset  = i % 5 == 0 ? bytes.size() - n_bytes : pick(rng, 0, bytes.size() - n_bytes);
        const uint64_t end     = offset + n_bytes;
        CAPTURE(offset);
        CAPTURE(n_bytes);

        const Target congruent(n_bytes, offset, align);
        REQUIRE(completions.read({2 * i, 0, offset, true, congruent.segments()}) == "");
        CHECK(congruent.holds(bytes, offset));
        CHECK(congruent.margins_untouched(offset - align_down(offset, align), align_up(end, align) - end));

        const uint64_t shift = pick(rng, 0, align - 1);
        const uint64_t cut   = pick(rng, 0, n_bytes);
        const Target   elsewhere(n_bytes, shift, align);
        const bool     lends_slack = i % 2 == 0 && (shift - offset) % align != 0;
        REQUIRE(completions.read({2 * i + 1, 0, offset, lends_slack, elsewhere.segments({cut})}) == "");
        CHECK(elsewhere.holds(bytes, offset));
        CHECK(elsewhere.margins_untouched(0, 0));
    }
}

TEST_CASE("segments") {
    const std::vector<std::byte> bytes = random_bytes(3 * mib, 4);
    const TempFile               file(bytes);
    const auto                   reader = make_pread_reader({file.path()});
    Completions                  completions(*reader);
    const uint64_t               align  = reader->alignment();
    const uint64_t               offset = 3 * align + 32;
    const uint64_t               n      = 2 * mib + 77;

    SUBCASE("that meet at aligned positions take the drive's writes") {
        const Target target(n, offset, align);
        CHECK(completions.read({1, 0, offset, true, target.segments({align - 32, 9 * align - 32})}) == "");
        CHECK(target.holds(bytes, offset));
    }
    SUBCASE("that do not are copied") {
        const Target target(n, offset, align);
        CHECK(completions.read({1, 0, offset, true, target.segments({1, 1000, mib + 5})}) == "");
        CHECK(target.holds(bytes, offset));
        CHECK(target.margins_untouched(0, 0));
    }
    SUBCASE("in separate places") {
        const Target first(align - 32, offset, align);
        const Target second(5 * align + 7, 0, align);
        CHECK(completions.read({1, 0, offset, true, {first.segments()[0], second.segments()[0]}}) == "");
        CHECK(first.holds(bytes, offset));
        CHECK(second.holds(bytes, 4 * align));
    }
    SUBCASE("more than one system call takes") {
        const Target          target(200 * align, 0, align);
        std::vector<uint64_t> cuts;
        for (uint64_t i = 1; i < 200; ++i) {
            cuts.push_back(i * align);
        }
        CHECK(completions.read({1, 0, 2 * align, true, target.segments(cuts)}) == "");
        CHECK(target.holds(bytes, 2 * align));
    }
    SUBCASE("of no bytes") {
        const Target target(64, offset, align);
        CHECK(completions.read({1, 0, offset, true, target.segments({0, 64})}) == "");
        CHECK(target.holds(bytes, offset));
        CHECK(target.margins_untouched(0, 0));
        CHECK(completions.read({2, 0, offset, true, {}}) == "");
    }
}

TEST_CASE("several files") {
    const std::vector<std::byte> a = random_bytes(9000, 5);
    const std::vector<std::byte> b = random_bytes(9000, 6);
    const TempFile               file_a(a);
    const TempFile               file_b(b, in_memory);
    const auto                   reader = make_pread_reader({file_a.path(), file_b.path()});
    Completions                  completions(*reader);
    const Target                 from_a(5000, 100, reader->alignment());
    const Target                 from_b(5000, 100, reader->alignment());
    CHECK(completions.read({1, 0, 100, true, from_a.segments()}) == "");
    CHECK(completions.read({2, 1, 100, true, from_b.segments()}) == "");
    CHECK(from_a.holds(a, 100));
    CHECK(from_b.holds(b, 100));
}

#ifdef __linux__
TEST_CASE("a file system that refuses O_DIRECT is read through the page cache") {
    const std::string            path  = "/proc/version";
    const std::vector<std::byte> bytes = slurp(path);
    REQUIRE(bytes.size() > 20);
    const auto   reader = make_pread_reader({path});
    Completions  completions(*reader);
    const Target target(bytes.size() - 7, 7, reader->alignment());
    CHECK(completions.read({1, 0, 7, true, target.segments()}) == "");
    CHECK(target.holds(bytes, 7));
}
#endif

TEST_CASE("the end of the file") {
    const std::vector<std::byte> bytes = random_bytes(10000, 7);
    const TempFile               file(bytes);
    bool                         direct = true;
    SUBCASE("direct") {}
    SUBCASE("buffered") { direct = false; }
    const auto     reader = make_pread_reader({file.path()}, {1, direct});
    Completions    completions(*reader);
    const uint64_t align = reader->alignment();

    for (const bool has_slack : {false, true}) {
        for (const uint64_t offset : {9000, 9990, 10000, 50000}) {
            const Target target(1001, offset, align);
            CHECK(completions.read({1, 0, offset, has_slack, target.segments()}) ==
                  "cannot read 1001 bytes at offset " + std::to_string(offset) + " of " + file.path() +
                      ": the file ends before the last of them");
            CHECK(completions.os_errno(1) == 0);
        }
        const Target target(1000, 9000, align);
        CHECK(completions.read({2, 0, 9000, has_slack, target.segments()}) == "");
        CHECK(target.holds(bytes, 9000));
    }
}

TEST_CASE("a file that is written to after it was opened is read no more") {
    const std::vector<std::byte> bytes = random_bytes(10000, 14);
    const TempFile               file(bytes);
    const auto                   long_ago = std::filesystem::last_write_time(file.path()) - std::chrono::hours(1);
    std::filesystem::last_write_time(file.path(), long_ago);
    bool direct = true;
    SUBCASE("direct") {}
    SUBCASE("buffered") { direct = false; }
    const auto   reader = make_pread_reader({file.path()}, {1, direct});
    Completions  completions(*reader);
    const Target target(1000, 32, reader->alignment());
    CHECK(completions.read({1, 0, 32, true, target.segments()}) == "");

    const int fd = ::open(file.path().c_str(), O_WRONLY);
    REQUIRE(::pwrite(fd, "other bytes", 11, 100) == 11);
    ::close(fd);
    CHECK(completions.read({2, 0, 32, true, target.segments()}) ==
          file.path() + " was written to while it was in use: load the model again");
    CHECK(completions.os_errno(2) == ESTALE);

    // Another file under its name is none of this reader's business.
    const TempFile other(random_bytes(10000, 15));
    std::filesystem::last_write_time(file.path(), long_ago);
    std::filesystem::rename(other.path(), file.path());
    CHECK(completions.read({3, 0, 5000, true, target.segments()}) == "");
    CHECK(target.holds(bytes, 5000));
}

TEST_CASE("a file that cannot be opened throws, with its path and reason") {
    const TempFile file(random_bytes(100, 8));
    const auto     open_both = [&] { make_pread_reader({file.path(), "no/such/model.gguf"}); };
    CHECK_THROWS_WITH_AS(open_both(), "cannot open no/such/model.gguf: No such file or directory", std::system_error);
}

TEST_CASE("system calls that do less than was asked") {
    const std::vector<std::byte> bytes = random_bytes(3 * mib, 9);
    const TempFile               file(bytes);
    PreadReaderOptions           options;
    options.n_threads = 1;
    std::atomic<int> n_calls{0};
    std::string      expected;
    int              expected_errno = 0;
    int              n_max_calls    = 1000;

    SUBCASE("interrupted every other time, and short") {
        options.preadv = [&](int fd, const iovec * iovecs, int, off_t offset) -> ssize_t {
            if (n_calls++ % 2 == 0) {
                errno = EINTR;
                return -1;
            }
            iovec part   = iovecs[0];
            part.iov_len = std::min<size_t>(part.iov_len, 16 * 4096);
            return ::preadv(fd, &part, 1, offset);
        };
    }
    SUBCASE("short at an odd place") {
        options.preadv = [&](int fd, const iovec * iovecs, int, off_t offset) {
            ++n_calls;
            iovec part = iovecs[0];
            if (part.iov_len > 8192) {
                part.iov_len = 8192;
                return std::min<ssize_t>(::preadv(fd, &part, 1, offset), 8001);
            }
            return ::preadv(fd, &part, 1, offset);
        };
    }
#ifdef O_DIRECT
    SUBCASE("direct reads refused: asked once") {
        options.preadv = [&](int fd, const iovec * iovecs, int n_iovecs, off_t offset) -> ssize_t {
            ++n_calls;
            if ((::fcntl(fd, F_GETFL) & O_DIRECT) != 0) {
                errno = EINVAL;
                return -1;
            }
            return ::preadv(fd, iovecs, n_iovecs, offset);
        };
        n_max_calls = 3;
    }
#endif
    SUBCASE("failing") {
        options.preadv = [&](int, const iovec *, int, off_t) -> ssize_t {
            ++n_calls;
            errno = EIO;
            return -1;
        };
        expected       = "cannot read 2000000 bytes at offset 555 of " + file.path() + ": Input/output error";
        expected_errno = EIO;
        n_max_calls    = 2;
    }
    const auto  reader = make_pread_reader({file.path()}, options);
    Completions completions(*reader);
    for (const bool has_slack : {true, false}) {
        const Target target(2000000, 555, reader->alignment());
        CHECK(completions.read({1, 0, 555, has_slack, target.segments()}) == expected);
        CHECK(completions.os_errno(1) == expected_errno);
        CHECK(target.holds(bytes, 555) == expected.empty());
    }
    CHECK(n_calls > 0);
    CHECK(n_calls <= n_max_calls);
}

#ifdef O_DIRECT
TEST_CASE("reads are direct where the file system can, and go straight to a congruent destination") {
    const std::vector<std::byte> bytes = random_bytes(3 * mib, 13);
    const TempFile               file(bytes);
    const int                    fd         = ::open(file.path().c_str(), O_RDONLY | O_DIRECT);
    const bool                   can_direct = fd >= 0;
    ::close(fd);

    int                n_calls[2] = {}; // buffered, direct
    const void *       last_base  = nullptr;
    PreadReaderOptions options;
    options.n_threads = 1;
    options.preadv    = [&](int fd_, const iovec * iovecs, int n_iovecs, off_t offset) {
        ++n_calls[(::fcntl(fd_, F_GETFL) & O_DIRECT) != 0];
        last_base = iovecs[0].iov_base;
        return ::preadv(fd_, iovecs, n_iovecs, offset);
    };
    const auto     reader = make_pread_reader({file.path()}, options);
    Completions    completions(*reader);
    const uint64_t align = reader->alignment();
    const Target   congruent(2 * mib, 5 * align + 32, align);
    const Target   incongruent(2 * mib, 64, align);

    CHECK(completions.read({1, 0, 5 * align + 32, true, congruent.segments()}) == "");
    CHECK(last_base == congruent.data() - (can_direct ? 32 : 0));
    CHECK(n_calls[can_direct] == 1);
    CHECK(completions.read({2, 0, 5 * align + 32, true, incongruent.segments()}) == "");
    CHECK(n_calls[can_direct] == (can_direct ? 4 : 2)); // 2 MiB and 32 bytes through 1 MiB of bounce buffer
    CHECK(n_calls[!can_direct] == 0);
}
#endif

TEST_CASE("many operations from several threads, each completed once") {
    constexpr uint64_t                   n_ops = 400;
    const std::vector<std::byte>         bytes = random_bytes(mib, 10);
    const TempFile                       file(bytes);
    std::vector<std::unique_ptr<Target>> targets;
    std::vector<uint64_t>                offsets;
    auto                                 reader = make_pread_reader({file.path()});
    Completions                          completions(*reader);
    std::mt19937                         rng(11);
    for (uint64_t i = 0; i < n_ops; ++i) {
        offsets.push_back(pick(rng, 0, bytes.size() - 3000));
        targets.push_back(std::make_unique<Target>(3000, i % 2 == 0 ? offsets[i] : i, reader->alignment()));
    }
    const auto submit = [&](uint64_t first) {
        for (uint64_t i = first; i < n_ops; i += 4) {
            std::vector<ReadOp> pair;
            for (const uint64_t k : {i, i + 2}) {
                pair.push_back({k, 0, offsets[k], k % 2 == 0, targets[k]->segments()});
            }
            reader->submit(std::move(pair));
        }
    };
    std::thread other(submit, 1);
    submit(0);
    other.join();
    SUBCASE("drained") { reader->drain(); }
    SUBCASE("destroyed") { reader.reset(); }

    std::vector<uint64_t> tags = completions.tags();
    std::sort(tags.begin(), tags.end());
    REQUIRE(tags.size() == n_ops);
    for (uint64_t i = 0; i < n_ops; ++i) {
        CHECK(tags[i] == i);
        CHECK(completions.message(i) == "");
        CHECK(targets[i]->holds(bytes, offsets[i]));
    }
}

TEST_CASE("a completion may submit") {
    const std::vector<std::byte> bytes = random_bytes(100000, 12);
    const TempFile               file(bytes);
    const auto                   reader = make_pread_reader({file.path()}, {2, true});
    const Target                 target(1000, 0, reader->alignment());
    std::atomic<int>             n_completed{0};
    reader->set_completion([&](uint64_t tag, const Status &) {
        ++n_completed;
        if (tag < 20) {
            reader->submit({{tag + 1, 0, 0, false, target.segments()}});
        }
    });
    reader->submit({{0, 0, 0, false, target.segments()}});
    reader->drain();
    CHECK(n_completed == 21);
}
