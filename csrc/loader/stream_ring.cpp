#include "loader/stream_ring.h"

#include "cache/invariant.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

namespace {

constexpr uint64_t min_buffers = 3;
constexpr uint64_t max_buffers = 64;

uint32_t n_buffers_for(uint64_t max_part_bytes, uint64_t ring_bytes, uint64_t buffer_bytes) {
    if (max_part_bytes == 0) {
        return 0;
    }
    return static_cast<uint32_t>(std::clamp(ring_bytes / buffer_bytes, min_buffers, max_buffers));
}

} // namespace

StreamRing::StreamRing(uint64_t max_part_bytes, uint64_t ring_bytes, uint64_t align, const MakeArena & make_arena)
    : align_(align), buffer_bytes_(align_up(max_part_bytes, align) + align),
      n_buffers_(n_buffers_for(max_part_bytes, ring_bytes, buffer_bytes_)),
      arena_(make_arena ? make_arena(n_buffers_ * buffer_bytes_) : Arena(n_buffers_ * buffer_bytes_)) {
    for (uint32_t i = n_buffers_; i-- > 0;) {
        free_buffers_.push_back(static_cast<int32_t>(i));
    }
}

uint64_t StreamRing::ring_memory_bytes(uint64_t max_part_bytes, uint64_t ring_bytes, uint64_t align) {
    const uint64_t buffer_bytes = align_up(max_part_bytes, align) + align;
    return n_buffers_for(max_part_bytes, ring_bytes, buffer_bytes) * buffer_bytes;
}

int32_t StreamRing::push(const StreamRequest & request) {
    assert(n_buffers_ > 0 && align_up(request.extent.n_bytes, align_) + align_ <= buffer_bytes_);
    int32_t idx;
    if (free_requests_.empty()) {
        idx = static_cast<int32_t>(requests_.size());
        requests_.push_back(request);
    } else {
        idx = free_requests_.back();
        free_requests_.pop_back();
        at(idx) = request;
    }
    waiting_.push_back(idx);
    return idx;
}

int32_t StreamRing::assign_next() {
    if (waiting_.empty() || free_buffers_.empty()) {
        return -1;
    }
    const int32_t idx = waiting_.front();
    waiting_.pop_front();
    StreamRequest & request = at(idx);
    request.buffer_idx      = free_buffers_.back();
    free_buffers_.pop_back();
    // At the file offset's place in an aligned block, so that a direct read needs no copy.
    request.data =
        arena_.data() + static_cast<uint64_t>(request.buffer_idx) * buffer_bytes_ + request.extent.offset % align_;
    return idx;
}

void StreamRing::erase(int32_t request_idx) {
    StreamRequest & request = at(request_idx);
    assert(request.n_pieces_left == 0);
    if (request.buffer_idx >= 0) {
        free_buffers_.push_back(request.buffer_idx);
    } else {
        waiting_.erase(std::find(waiting_.begin(), waiting_.end(), request_idx));
    }
    request = {};
    free_requests_.push_back(request_idx);
}

std::vector<int32_t> StreamRing::requests() const {
    std::vector<bool> is_free(requests_.size(), false);
    for (const int32_t idx : free_requests_) {
        is_free[static_cast<size_t>(idx)] = true;
    }
    std::vector<int32_t> out;
    for (size_t i = 0; i < requests_.size(); i++) {
        if (!is_free[i]) {
            out.push_back(static_cast<int32_t>(i));
        }
    }
    return out;
}

void StreamRing::check_invariants() const {
    std::vector<int32_t> buffers   = free_buffers_;
    size_t               n_waiting = 0;
    for (const int32_t idx : requests()) {
        const StreamRequest & request = at(idx);
        if (request.buffer_idx >= 0) {
            buffers.push_back(request.buffer_idx);
            check_invariant(!request.abandoned || request.n_pieces_left > 0,
                            "an abandoned request lives only while its reads do");
            continue;
        }
        n_waiting++;
        check_invariant(request.n_pieces_left == 0 && !request.abandoned, "a waiting request has no reads");
        check_invariant(std::count(waiting_.begin(), waiting_.end(), idx) == 1, "a request without buffer waits once");
    }
    check_invariant(n_waiting == waiting_.size(), "only live requests wait");
    check_invariant(waiting_.empty() || free_buffers_.empty(), "no buffer is free while a request waits");
    std::sort(buffers.begin(), buffers.end());
    check_invariant(buffers.size() == n_buffers_, "each buffer is free or in use");
    for (size_t i = 0; i < buffers.size(); i++) {
        check_invariant(buffers[i] == static_cast<int32_t>(i), "a buffer is in use once");
    }
}

} // namespace hobbit
