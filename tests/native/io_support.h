// Files with known bytes, and a caller that waits for completions, for the tests of io.
#pragma once

#include "base/mutex.h"
#include "io/reader.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace hobbit_tests {

inline std::vector<std::byte> random_bytes(size_t n, uint32_t seed) {
    std::mt19937_64        rng(seed);
    std::vector<std::byte> bytes(n);
    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        const uint64_t word = rng();
        std::memcpy(bytes.data() + i, &word, std::min(n - i, sizeof(word)));
    }
    return bytes;
}

// A file that is gone at the end of the scope. The default folder is the build's: unlike the system's folder for
// temporary files it is hardly ever in memory.
class TempFile {
  public:
    explicit TempFile(const std::vector<std::byte> & bytes, const std::string & folder = ".") {
        path_        = folder + "/hobbit_test_XXXXXX";
        const int fd = ::mkstemp(path_.data());
        if (fd < 0) {
            throw std::runtime_error("cannot make a temporary file in " + folder);
        }
        ::close(fd);
        std::ofstream out(path_, std::ios::binary);
        out.write(reinterpret_cast<const char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        out.close();
        if (!out) {
            throw std::runtime_error("cannot write " + path_);
        }
    }
    ~TempFile() { ::unlink(path_.c_str()); }
    TempFile(const TempFile &)             = delete;
    TempFile & operator=(const TempFile &) = delete;

    const std::string & path() const { return path_; }

  private:
    std::string path_;
};

constexpr std::byte untouched = std::byte{0xa5};

// Memory for one read whose first byte lies at `shift` modulo `align`, with at least `align` bytes of 0xa5 around it.
class Target {
  public:
    Target(uint64_t n_bytes, uint64_t shift, uint64_t align)
        : n_bytes_(n_bytes), margin_(align + shift % align), align_(align),
          memory_(static_cast<std::byte *>(::operator new(n_all(), std::align_val_t(align)))) {
        std::fill_n(memory_, n_all(), untouched);
    }
    ~Target() { ::operator delete(memory_, std::align_val_t(align_)); }
    Target(const Target &)             = delete;
    Target & operator=(const Target &) = delete;

    std::byte * data() const { return memory_ + margin_; }

    // The range cut after `cuts` bytes from its start, in ascending order.
    std::vector<hobbit::ReadSegment> segments(const std::vector<uint64_t> & cuts = {}) const {
        std::vector<hobbit::ReadSegment> out;
        uint64_t                         begin = 0;
        for (const uint64_t cut : cuts) {
            out.push_back({data() + begin, cut - begin});
            begin = cut;
        }
        out.push_back({data() + begin, n_bytes_ - begin});
        return out;
    }

    bool holds(const std::vector<std::byte> & file, uint64_t offset) const {
        return std::memcmp(data(), file.data() + offset, n_bytes_) == 0;
    }
    // Whether nothing was written more than `n_slack` bytes outside the range, at either end.
    bool margins_untouched(uint64_t n_before, uint64_t n_after) const {
        const auto is_untouched = [](std::byte b) { return b == untouched; };
        return std::all_of(memory_, data() - n_before, is_untouched) &&
               std::all_of(data() + n_bytes_ + n_after, memory_ + n_all(), is_untouched);
    }

  private:
    uint64_t n_all() const { return margin_ + n_bytes_ + 2 * align_; }

    const uint64_t    n_bytes_;
    const uint64_t    margin_;
    const uint64_t    align_;
    std::byte * const memory_;
};

// Collects what a reader reports.
class Completions {
  public:
    explicit Completions(hobbit::Reader & reader) : reader_(reader) {
        reader.set_completion([this](uint64_t tag, const hobbit::Status & status) {
            hobbit::MutexLock lock(mu_);
            tags_.push_back(tag);
            messages_[tag] = status.ok() ? "" : status.message();
            errnos_[tag]   = status.os_errno();
        });
    }

    // Submits one operation, waits, and returns its message ("" = success).
    std::string read(hobbit::ReadOp op) {
        const uint64_t              tag = op.tag;
        std::vector<hobbit::ReadOp> ops;
        ops.push_back(std::move(op));
        reader_.submit(std::move(ops));
        reader_.drain();
        return message(tag);
    }

    std::string message(uint64_t tag) {
        hobbit::MutexLock lock(mu_);
        return messages_.at(tag);
    }
    int os_errno(uint64_t tag) {
        hobbit::MutexLock lock(mu_);
        return errnos_.at(tag);
    }
    std::vector<uint64_t> tags() { // in the order of completion
        hobbit::MutexLock lock(mu_);
        return tags_;
    }

  private:
    hobbit::Reader &                reader_;
    hobbit::Mutex                   mu_;
    std::vector<uint64_t>           tags_;
    std::map<uint64_t, std::string> messages_;
    std::map<uint64_t, int>         errnos_;
};

} // namespace hobbit_tests
