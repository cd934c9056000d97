// A file opened for reading twice: past the page cache where the file system can do that, and through it.
#pragma once

#include "base/types.h"

#include <atomic>
#include <string>

namespace hobbit {

class FileDescriptor {
  public:
    explicit FileDescriptor(int fd) : fd_(fd) {}
    ~FileDescriptor();
    FileDescriptor(const FileDescriptor &)             = delete;
    FileDescriptor & operator=(const FileDescriptor &) = delete;

    int  get() const { return fd_; }
    bool is_open() const { return fd_ >= 0; }

  private:
    const int fd_;
};

// Differs once a file was written to. A file renamed over another has its own, and leaves the open one as it was.
struct FileVersion {
    int64_t n_bytes = -1;
    int64_t mtime_s = 0, mtime_ns = 0;

    // Of an open file; n_bytes is -1 if it cannot be examined.
    static FileVersion of(int fd);

    bool operator==(const FileVersion & other) const {
        return n_bytes == other.n_bytes && mtime_s == other.mtime_s && mtime_ns == other.mtime_ns;
    }
};

class DirectFile {
  public:
    static constexpr uint32_t min_align     = 512;
    static constexpr uint32_t default_align = 4096; // pages, and the logical blocks of every common drive

    // Throws std::system_error if the file cannot be opened.
    DirectFile(const std::string & path, bool try_direct);

    const std::string & path() const { return path_; }

    // Nobody wrote to the file since it was opened. Asked after a read: what was read before the write is right.
    bool is_unchanged() const;

    // Direct reads are worth trying; goes false once, when one is refused.
    bool use_direct() const { return use_direct_.load(std::memory_order_relaxed); }
    void stop_direct() { use_direct_.store(false, std::memory_order_relaxed); }

    // For aligned reads; REQUIRES that use_direct() was true.
    int direct_fd() const { return direct_.get(); }
    // For any read, without read-ahead.
    int buffered_fd() const { return buffered_.get(); }

    // What the file system asks of direct reads (memory and offsets), whether they are used or not.
    uint32_t alignment() const;

    // After a buffered read of this range.
    void drop_from_page_cache(uint64_t offset, uint64_t n_bytes) const;

  private:
    const std::string    path_;
    const FileDescriptor buffered_;
    const FileDescriptor direct_;
    const FileVersion    version_;
    std::atomic<bool>    use_direct_;
};

} // namespace hobbit
