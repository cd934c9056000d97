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

class DirectFile {
  public:
    static constexpr uint32_t min_align     = 512;
    static constexpr uint32_t default_align = 4096; // pages, and the logical blocks of every common drive

    // Throws std::system_error if the file cannot be opened.
    DirectFile(const std::string & path, bool try_direct);

    const std::string & path() const { return path_; }

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
    std::atomic<bool>    use_direct_;
};

} // namespace hobbit
