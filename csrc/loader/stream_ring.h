// The buffers through which matrices without a slot pass, one matrix each, and the requests that wait for one.
//
// Not thread-safe: the loader calls it under its mutex.
#pragma once

#include "base/status.h"
#include "base/types.h"
#include "cache/arena.h"
#include "loader/read_queue.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace hobbit {

struct StreamRequest {
    FileExtent extent;
    ReadOrder  order;
    uint32_t   part_idx  = 0;
    Precision  precision = Precision::hi;

    int32_t     buffer_idx    = -1; // none: waits for one
    std::byte * data          = nullptr;
    uint32_t    n_pieces_left = 0;
    bool        abandoned     = false; // its step is gone or done with it; the buffer is held by reads in flight
    bool        failed        = false;
    Status      status;

    bool is_ready() const { return buffer_idx >= 0 && n_pieces_left == 0 && !failed; }
};

class StreamRing {
  public:
    // Room for parts of up to `max_part_bytes`; as many buffers as fit into `ring_bytes`, but at least three (one in
    // use, two being read) and at most 64. max_part_bytes 0: no buffers. Throws std::bad_alloc.
    StreamRing(uint64_t max_part_bytes, uint64_t ring_bytes, uint64_t align, const MakeArena & make_arena = {});

    // Memory that a ring of these parameters takes.
    static uint64_t ring_memory_bytes(uint64_t max_part_bytes, uint64_t ring_bytes, uint64_t align);

    // Lets a part wait its turn and returns the request's index.
    int32_t push(const StreamRequest & request);

    // Gives a free buffer to the request that has waited longest and returns its index; -1 if there is none of either.
    int32_t assign_next();

    // Ends a request; its buffer is free again. REQUIRES: no read of it is queued or in flight.
    void erase(int32_t request_idx);

    StreamRequest &       at(int32_t request_idx) { return requests_[static_cast<size_t>(request_idx)]; }
    const StreamRequest & at(int32_t request_idx) const { return requests_[static_cast<size_t>(request_idx)]; }

    uint32_t n_buffers() const { return n_buffers_; }
    uint64_t n_bytes() const { return arena_.n_bytes(); }

    std::vector<int32_t> requests() const; // indices of all that live

    // Aborts with a message if a buffer is lost or shared, or free while a request waits.
    void check_invariants() const;

  private:
    const uint64_t             align_;
    const uint64_t             buffer_bytes_;
    const uint32_t             n_buffers_;
    Arena                      arena_;
    std::vector<int32_t>       free_buffers_;
    std::vector<StreamRequest> requests_; // slab
    std::vector<int32_t>       free_requests_;
    std::deque<int32_t>        waiting_;
};

} // namespace hobbit
