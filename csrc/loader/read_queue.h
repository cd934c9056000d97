// The reads that wait for the drive: extents cut into pieces, kept in the order of need, merged into operations.
//
// There are two classes. What a step wants goes before all that is read ahead on a guess; a guess that turns out right
// is promoted, piece by piece, and one that turns out wrong is cancelled up to the pieces in flight.
//
// Not thread-safe: the loader calls it under its mutex.
#pragma once

#include "base/types.h"
#include "cache/expert_cache.h"
#include "io/reader.h"

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

namespace hobbit {

// What is wanted first. Then earlier steps first; within one, all its copies' first part in use, then their second, ...
struct ReadOrder {
    uint64_t step_no   = 0; // of what is read ahead: the number of the guess
    uint32_t rank      = 0;
    uint32_t piece_idx = 0;
    bool     is_ahead  = false;

    bool operator<(const ReadOrder & o) const {
        return std::tie(is_ahead, step_no, rank, piece_idx) < std::tie(o.is_ahead, o.step_no, o.rank, o.piece_idx);
    }
};

// Whose bytes a piece carries: a part of a slot, or a request of the stream ring (slot is none).
struct ReadTarget {
    SlotRef   slot;
    int32_t   request_idx = -1;
    uint32_t  part_idx    = 0;
    Precision precision   = Precision::hi;
};

struct ReadPiece {
    ReadTarget  target;
    ReadOrder   order;
    FileExtent  extent;
    std::byte * dst       = nullptr;
    bool        congruent = false; // dst has the file offset's place in an aligned block, with slack around it
    bool        is_retry  = false;
    int32_t     next      = -1; // in the same operation, in the file's order
};

class ReadQueue {
  public:
    ReadQueue(uint64_t align, uint64_t max_read_bytes);

    // Queues an extent and returns the number of its pieces. `order.piece_idx` is filled in here.
    // REQUIRES: around a congruent `dst`, the rest of the aligned range belongs to the target.
    uint32_t push(const FileExtent & extent, std::byte * dst, const ReadTarget & target, ReadOrder order);

    // Takes the next operation, merged from pieces that follow each other here and in the file. Its tag is the first
    // of them, in flight until finish(). REQUIRES: not empty.
    ReadOp pop();

    // Takes an operation out of flight and appends its pieces to `done`.
    void finish(uint64_t tag, std::vector<ReadPiece> & done);

    // Queues a piece once more, as an operation of its own.
    void retry(ReadPiece piece);

    // Drops a request's queued pieces and returns how many there were; those in flight go on.
    uint32_t cancel(int32_t request_idx);
    // The same of a slot; subtracts them from n_pieces_left, [max_parts], and returns their bytes.
    uint64_t cancel(SlotRef slot, uint32_t * n_pieces_left);

    // A slot's queued pieces are wanted now: gives those of each part the order of that part, [max_parts].
    void promote(SlotRef slot, const ReadOrder * orders);

    // Drops everything that is queued.
    void clear();

    bool empty() const { return queued_.empty(); }
    // Of the piece that pop() begins with. REQUIRES: not empty.
    const ReadOrder & first_order() const { return pieces_[static_cast<size_t>(queued_.front())].order; }
    uint32_t          n_in_flight() const { return n_in_flight_; } // operations
    uint32_t          n_ahead_in_flight() const { return n_ahead_in_flight_; }
    uint32_t          n_wanted() const { return n_wanted_; } // pieces, queued or in flight, that are not read ahead

    std::vector<ReadPiece> pieces() const;        // all that are queued or in flight
    std::vector<ReadPiece> queued_pieces() const; // those that are not in flight

  private:
    void                                            enqueue(const ReadPiece & piece);
    template <typename Matches, typename Drop> void drop_queued(Matches matches, Drop drop);
    int32_t                                         take_first();
    bool can_merge(const ReadPiece & last, const ReadPiece & next, uint64_t n_bytes) const;

    struct Later; // orders the heap

    const uint64_t         align_;
    const uint64_t         max_read_bytes_; // a multiple of the alignment
    std::vector<ReadPiece> pieces_;         // slab
    std::vector<int32_t>   free_;           // of the slab
    std::vector<int32_t>   queued_;         // heap, first in order on top
    uint32_t               n_in_flight_       = 0;
    uint32_t               n_ahead_in_flight_ = 0;
    uint32_t               n_wanted_          = 0;
};

} // namespace hobbit
