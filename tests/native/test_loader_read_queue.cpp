#include "loader/read_queue.h"

#include <doctest/doctest.h>

#include <vector>

using namespace hobbit;

namespace {

constexpr uint64_t align = 512;

struct alignas(align) Buffer {
    std::byte bytes[64 * 1024];
};

Buffer buffer;

ReadTarget request(int32_t idx) { return {{}, idx, 0, Precision::hi}; }

} // namespace

TEST_CASE("only a destination that is congruent to the file offset has slack") {
    ReadQueue queue(align, 4096);
    queue.push({0, 1000, 2048}, buffer.bytes + 1000 % align, request(0), {0, 0, 0});
    queue.push({0, 1000, 2048}, buffer.bytes + 8192, request(1), {0, 1, 0});
    CHECK(queue.pop().has_slack);
    CHECK_FALSE(queue.pop().has_slack);
    CHECK(queue.empty());
    CHECK(queue.n_in_flight() == 2);
}

TEST_CASE("a long extent is cut at aligned file offsets and covered exactly") {
    ReadQueue queue(align, 2048);
    CHECK(queue.push({3, 1000, 7000}, buffer.bytes + 1000 % align, request(0), {0, 0, 0}) == 4);
    uint64_t offset = 1000;
    while (!queue.empty()) {
        const ReadOp op = queue.pop();
        CHECK(op.file_idx == 3);
        CHECK(op.offset == offset);
        CHECK((offset == 1000 || offset % align == 0));
        CHECK(op.n_bytes() <= 2048);
        CHECK(op.segments.front().dst == buffer.bytes + 1000 % align + (offset - 1000));
        offset += op.n_bytes();
    }
    CHECK(offset == 8000);
}

TEST_CASE("reads come out by step, rank and piece, whatever order they went in") {
    ReadQueue queue(align, 4096);
    queue.push({0, 5 << 12, 512}, buffer.bytes, request(0), {1, 0, 0});
    queue.push({0, 3 << 12, 512}, buffer.bytes + 1024, request(1), {0, 7, 0});
    queue.push({0, 4 << 12, 512}, buffer.bytes + 2048, request(2), {0, 2, 0});
    CHECK(queue.pop().offset == 4 << 12);
    CHECK(queue.pop().offset == 3 << 12);
    CHECK(queue.pop().offset == 5 << 12);
}

TEST_CASE("neighbours merge up to the limit, and a retry goes alone and first") {
    ReadQueue queue(align, 3072);
    for (uint32_t i = 0; i < 4; i++) {
        queue.push({0, i * 1024, 1024}, buffer.bytes + i * 2048, request(static_cast<int32_t>(i)), {0, i, 0});
    }
    const ReadOp merged = queue.pop();
    CHECK(merged.segments.size() == 3);
    CHECK(merged.segments[2].dst == buffer.bytes + 4096);

    std::vector<ReadPiece> done;
    queue.finish(merged.tag, done);
    REQUIRE(done.size() == 3);
    CHECK(done[1].target.request_idx == 1);
    queue.retry(done[1]);
    queue.retry(done[2]);
    CHECK(queue.pop().offset == 1024);
    CHECK(queue.pop().offset == 2048);
    CHECK(queue.pop().offset == 3072);
    CHECK(queue.n_in_flight() == 3);
}

TEST_CASE("cancel drops what is queued for a request and nothing else") {
    ReadQueue queue(align, 1024);
    queue.push({0, 0, 4096}, buffer.bytes, request(0), {0, 0, 0});
    queue.push({0, 8192, 2048}, buffer.bytes + 8192, request(1), {0, 1, 0});
    CHECK(queue.pop().offset == 0);
    CHECK(queue.cancel(0) == 3);
    CHECK(queue.cancel(0) == 0);
    CHECK(queue.pieces().size() == 3);
    CHECK(queue.pop().offset == 8192);
    CHECK(queue.pop().offset == 9216);
    CHECK(queue.empty());
}
