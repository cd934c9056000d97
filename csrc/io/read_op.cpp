#include "io/read_op.h"

#include <algorithm>
#include <cstring>
#include <system_error>

namespace hobbit {

bool is_congruent(const ReadOp & op, uint64_t align) {
    if (!op.has_slack) {
        return false;
    }
    uint64_t position = op.offset;
    for (const ReadSegment & segment : op.segments) {
        const uint64_t address = reinterpret_cast<uintptr_t>(segment.dst);
        if (segment.n_bytes == 0 || (address - position) % align != 0 ||
            (position != op.offset && position % align != 0)) {
            return false;
        }
        position += segment.n_bytes;
    }
    return true;
}

void scatter(const ReadOp & op, uint64_t skip, const std::byte * src, uint64_t n_bytes) {
    for (const ReadSegment & segment : op.segments) {
        if (skip >= segment.n_bytes) {
            skip -= segment.n_bytes;
            continue;
        }
        const uint64_t n = std::min(segment.n_bytes - skip, n_bytes);
        if (n > 0) {
            std::memcpy(segment.dst + skip, src, n);
        }
        src += n;
        n_bytes -= n;
        skip = 0;
    }
}

Status read_error(const ReadOp & op, const std::string & path, int os_errno) {
    const std::string reason =
        os_errno == 0 ? "the file ends before the last of them" : std::generic_category().message(os_errno);
    return Status::error("cannot read " + std::to_string(op.n_bytes()) + " bytes at offset " +
                             std::to_string(op.offset) + " of " + path + ": " + reason,
                         os_errno, path);
}

} // namespace hobbit
