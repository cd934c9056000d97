// What every reader needs to know of an operation: whether it can go without a bounce buffer, and how it failed.
#pragma once

#include "io/reader.h"

namespace hobbit {

// Whether the aligned range that encloses the read may be written straight through the segments: the caller lends the
// slack, each destination is congruent to its file position modulo `align`, and segments meet at aligned positions.
bool is_congruent(const ReadOp & op, uint64_t align);

// Copies `n_bytes` that lie `skip` bytes after the beginning of the operation's range into its segments.
void scatter(const ReadOp & op, uint64_t skip, const std::byte * src, uint64_t n_bytes);

// "cannot read <n> bytes at offset <o> of <path>: <reason>"; os_errno 0 means that the file ended too early.
Status read_error(const ReadOp & op, const std::string & path, int os_errno);

} // namespace hobbit
