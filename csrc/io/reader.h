// Asynchronous reads of file ranges into memory: the seam between the loader and the drive.
#pragma once

#include "base/status.h"
#include "base/types.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace hobbit {

// One destination of a read.
struct ReadSegment {
    std::byte * dst     = nullptr;
    uint64_t    n_bytes = 0;
};

// One contiguous file range, scattered over one or more segments in file order.
//
// A reader may touch the bytes of the aligned range that encloses the read: up to `align - 1` bytes before the
// first segment and after the last one, when `has_slack` says that those bytes belong to the caller and are not in
// use. With slack and a destination congruent to the file offset (modulo the drive's alignment) the drive writes
// straight into the segments; otherwise the reader goes through a bounce buffer of its own.
struct ReadOp {
    uint64_t                 tag       = 0; // returned with the completion
    uint32_t                 file_idx  = 0;
    uint64_t                 offset    = 0;
    bool                     has_slack = false;
    std::vector<ReadSegment> segments;

    uint64_t n_bytes() const {
        uint64_t sum = 0;
        for (const ReadSegment & s : segments) {
            sum += s.n_bytes;
        }
        return sum;
    }
};

// Thread-safe. Completions arrive on the reader's own threads, in any order, exactly one for each operation; the
// callback must be short and must not call submit() with a lock held that a completion takes.
class Reader {
  public:
    using Completion = std::function<void(uint64_t tag, const Status & status)>;

    virtual ~Reader() = default;

    // Must be called once, before the first submit().
    virtual void set_completion(Completion completion) = 0;

    // Queues reads; never blocks on the drive.
    virtual void submit(std::vector<ReadOp> ops) = 0;

    // Operations worth keeping in flight at once; more are accepted and wait their turn.
    virtual uint32_t queue_depth() const = 0;

    // Alignment (bytes, a power of two) of memory and file offsets at which a read needs no bounce buffer.
    virtual uint32_t alignment() const = 0;

    // Blocks until nothing is in flight. The destructor does this as well.
    virtual void drain() = 0;
};

} // namespace hobbit
