// A reader for tests: bytes from memory, with scripted latency, order, short reads and errors.
#pragma once

#include "io/reader.h"

#include <memory>

namespace hobbit {

// What happens to the operation with this number (0 = the first one submitted).
struct FakeReadEvent {
    uint64_t op_number  = 0;
    uint64_t latency_us = 0;
    int      os_errno   = 0;     // 0 = succeeds
    bool     short_read = false; // ends before the last byte: reported as an error, as a truncated file would be
};

struct FakeReaderOptions {
    uint32_t                   n_threads  = 2;
    uint32_t                   alignment  = 512;
    uint64_t                   latency_us = 0; // of operations without an event
    std::vector<FakeReadEvent> events;
};

std::unique_ptr<Reader> make_fake_reader(std::vector<std::vector<std::byte>> files,
                                         const FakeReaderOptions &           options = {});

} // namespace hobbit
