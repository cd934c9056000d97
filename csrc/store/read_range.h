// Bytes of a file, outside of any graph's hot path: those that a graph asks for go through the Reader.
#pragma once

#include "base/status.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace hobbit {

Status read_range(const std::string & path, uint64_t offset, std::byte * dst, uint64_t n_bytes);

} // namespace hobbit
