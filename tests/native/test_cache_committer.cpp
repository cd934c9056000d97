#include "cache/committer.h"

#include <cstring>
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

using namespace hobbit;

namespace {

uint64_t n_resident_pages(const Arena & arena) {
    const auto                 page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages((arena.n_bytes() + page_bytes - 1) / page_bytes);
    REQUIRE(mincore(arena.data(), arena.n_bytes(), pages.data()) == 0);
    uint64_t n = 0;
    for (const unsigned char page : pages) {
        n += page & 1u;
    }
    return n;
}

std::vector<Arena> arenas(const std::vector<uint64_t> & sizes) {
    std::vector<Arena> out;
    for (const uint64_t n_bytes : sizes) {
        out.emplace_back(n_bytes);
    }
    return out;
}

} // namespace

#ifdef MADV_POPULATE_WRITE
TEST_CASE("all pages of all arenas are committed") {
    const std::vector<Arena> some       = arenas({20 << 20, 0, (5 << 20) + 4097});
    const auto               page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    CHECK(n_resident_pages(some[0]) == 0);
    CHECK(some[0].resident_bytes() == 0);
    Committer committer(some);
    committer.wait();
    for (const Arena & arena : some) {
        CHECK(arena.resident_bytes() == arena.n_bytes());
    }
    CHECK(n_resident_pages(some[0]) == some[0].n_bytes() / page_bytes);
    CHECK(n_resident_pages(some[2]) == some[2].n_bytes() / page_bytes + 1);
}
#endif

TEST_CASE("what is resident is what was written to, page by page") {
    const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    Arena      small(10 * page_bytes + 1); // too small for huge pages
    CHECK(small.resident_bytes() == 0);
    small.data()[0]               = std::byte{1};
    small.data()[4 * page_bytes]  = std::byte{1};
    small.data()[10 * page_bytes] = std::byte{1};
    CHECK(small.resident_bytes() == 2 * page_bytes + 1);
    const Arena borrowed(small.data(), 5, [] {});
    CHECK(borrowed.resident_bytes() == 5);
}

TEST_CASE("what is written meanwhile stays") {
    const std::vector<Arena> some = arenas({32 << 20});
    Committer                committer(some);
    std::memset(some[0].data(), 7, some[0].n_bytes());
    committer.wait();
    for (uint64_t i = 0; i < some[0].n_bytes(); i += 4096) {
        REQUIRE(some[0].data()[i] == std::byte{7});
    }
}

TEST_CASE("it ends early when it is destroyed, and leaves the memory of others alone") {
    const std::vector<Arena> some = arenas({uint64_t{1} << 34});
    {
        const Committer committer(some);
    }
    std::vector<Arena> borrowed;
    borrowed.emplace_back(some[0].data(), some[0].n_bytes(), [] {});
    const uint64_t n_before = n_resident_pages(some[0]);
    Committer      committer(borrowed);
    committer.wait();
    CHECK(n_resident_pages(some[0]) == n_before);
}
