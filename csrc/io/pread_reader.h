// The default reader: a pool of threads that pread with O_DIRECT, so that expert bytes do not pass through the page
// cache. Files on which O_DIRECT is refused (tmpfs, some overlays) are read through the page cache and dropped from it.
#pragma once

#include "base/timeline.h"
#include "io/reader.h"

#include <functional>
#include <memory>

#include <sys/uio.h>

namespace hobbit {

struct PreadReaderOptions {
    uint32_t n_threads = 4;    // reads in flight; experts are MB-sized, four saturate an NVMe drive
    bool     direct    = true; // try O_DIRECT

    Timeline * timeline = nullptr; // where reads are recorded; outlives the reader

    // The system call, replaced by tests that need it to fail. Called by several threads at once.
    std::function<ssize_t(int fd, const iovec * iovecs, int n_iovecs, off_t offset)> preadv = ::preadv;
};

// Opens `paths` (index = file_idx of the operations). Throws std::system_error if one cannot be opened.
std::unique_ptr<Reader> make_pread_reader(const std::vector<std::string> & paths,
                                          const PreadReaderOptions &       options = {});

} // namespace hobbit
