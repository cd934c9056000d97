#include "io/pread_reader.h"

#include "io/direct_file.h"
#include "io/read_op.h"
#include "io/read_pool.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <deque>
#include <new>
#include <utility>

namespace hobbit {

namespace {

constexpr uint64_t bounce_bytes    = 1 << 20;
constexpr uint64_t max_call_bytes  = 1 << 30; // Linux and macOS end longer reads short of 2 GiB
constexpr size_t   max_call_iovecs = 64;

using Preadv = decltype(PreadReaderOptions::preadv);

// Memory that a file range is read into: segments, widened by the slack at either end.
struct Destination {
    const ReadSegment * segments   = nullptr;
    size_t              n_segments = 0;
    uint64_t            lead       = 0;
    uint64_t            tail       = 0;
};

// One preadv of what follows the first `skip` bytes: bytes read (0 = end of file) or -errno.
int64_t read_some(const Preadv & preadv, int fd, const Destination & dst, uint64_t offset, uint64_t skip) {
    std::array<iovec, max_call_iovecs> iovecs;

    size_t   n_iovecs = 0;
    uint64_t n_left   = max_call_bytes;
    uint64_t position = offset + skip;
    for (size_t i = 0; i < dst.n_segments && n_iovecs < iovecs.size() && n_left > 0; ++i) {
        std::byte * begin = dst.segments[i].dst;
        uint64_t    n     = dst.segments[i].n_bytes;
        if (i == 0) {
            begin -= dst.lead;
            n += dst.lead;
        }
        if (i + 1 == dst.n_segments) {
            n += dst.tail;
        }
        if (skip >= n) {
            skip -= n;
            continue;
        }
        iovec & iov  = iovecs[n_iovecs++];
        iov.iov_base = begin + skip;
        iov.iov_len  = std::min(n - skip, n_left);
        n_left -= iov.iov_len;
        skip = 0;
    }
    while (true) {
        const ssize_t n = preadv(fd, iovecs.data(), static_cast<int>(n_iovecs), static_cast<off_t>(position));
        if (n >= 0) {
            return n;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

enum class Outcome : uint8_t {
    done,
    ended,   // end of file, or (direct) a short read at a position where only a buffered one can go on
    refused, // the file system has no direct reads of this kind
    failed,
};

struct ReadResult {
    Outcome outcome  = Outcome::done;
    int     os_errno = 0;
};

// Reads until the first `n_wanted` bytes are there; what lies behind them may be missing.
ReadResult read_fully(const Preadv & preadv, int fd, const Destination & dst, uint64_t offset, uint64_t n_wanted,
                      uint64_t align) {
    uint64_t n_done = 0;
    while (n_done < n_wanted) {
        const int64_t n = read_some(preadv, fd, dst, offset, n_done);
        if (n < 0) {
            const int os_errno = static_cast<int>(-n);
            return {os_errno == EINVAL ? Outcome::refused : Outcome::failed, os_errno};
        }
        n_done += static_cast<uint64_t>(n);
        if (n == 0 || (n_done < n_wanted && n_done % align != 0)) {
            return {Outcome::ended, 0};
        }
    }
    return {};
}

// A thread's own aligned buffer for reads whose destination the drive cannot write to.
class BounceBuffer {
  public:
    ~BounceBuffer() { ::operator delete(data_, std::align_val_t(align_)); }
    BounceBuffer()                                 = default;
    BounceBuffer(const BounceBuffer &)             = delete;
    BounceBuffer & operator=(const BounceBuffer &) = delete;

    // Throws std::bad_alloc. `align` is the same in every call.
    std::byte * get(uint64_t align) {
        if (data_ == nullptr) {
            align_ = static_cast<size_t>(align);
            data_  = static_cast<std::byte *>(::operator new(bounce_bytes, std::align_val_t(align_)));
        }
        return data_;
    }

  private:
    std::byte * data_  = nullptr;
    size_t      align_ = 1;
};

class PreadReader final : public Reader {
  public:
    PreadReader(const std::vector<std::string> & paths, const PreadReaderOptions & options)
        : preadv_(options.preadv), bounce_(std::max(options.n_threads, 1u)) {
        for (const std::string & path : paths) {
            const DirectFile & file = files_.emplace_back(path, options.direct);
            align_                  = std::max(align_, file.alignment());
        }
        const auto perform = [this](const ReadOp & op, uint64_t, uint32_t thread_idx) {
            return read(op, bounce_[thread_idx]);
        };
        pool_ = std::make_unique<ReadPool>(options.n_threads, perform, options.timeline);
    }

    void     set_completion(Completion completion) override { pool_->set_completion(std::move(completion)); }
    void     submit(std::vector<ReadOp> ops) override { pool_->submit(std::move(ops)); }
    uint32_t queue_depth() const override { return pool_->n_threads(); }
    uint32_t alignment() const override { return align_; }
    void     drain() override { pool_->drain(); }

  private:
    Status read(const ReadOp & op, BounceBuffer & bounce) {
        assert(op.file_idx < files_.size());
        DirectFile & file = files_[op.file_idx];
        if (op.n_bytes() == 0) {
            return {};
        }
        ReadResult result;
        if (file.use_direct()) {
            result = is_congruent(op, align_) ? read_direct(file, op) : read_bounced(file, op, bounce);
            if (result.outcome == Outcome::refused) {
                file.stop_direct();
            }
            if (result.outcome == Outcome::refused || result.outcome == Outcome::ended) {
                result = read_buffered(file, op);
            }
        } else {
            result = read_buffered(file, op);
        }
        if (result.outcome != Outcome::done) {
            return read_error(op, file.path(), result.os_errno);
        }
        if (!file.is_unchanged()) { // bytes of two models, mixed, would be a wrong answer that nobody notices
            return Status::error(file.path() + " was written to while it was in use: load the model again", ESTALE,
                                 file.path());
        }
        return {};
    }

    ReadResult read_direct(const DirectFile & file, const ReadOp & op) const {
        const uint64_t    end   = op.offset + op.n_bytes();
        const uint64_t    begin = align_down(op.offset, align_);
        const Destination dst   = {op.segments.data(), op.segments.size(), op.offset - begin,
                                   align_up(end, align_) - end};
        return read_fully(preadv_, file.direct_fd(), dst, begin, end - begin, align_);
    }

    ReadResult read_bounced(const DirectFile & file, const ReadOp & op, BounceBuffer & bounce) const {
        const uint64_t end = op.offset + op.n_bytes();
        for (uint64_t position = op.offset; position < end;) {
            const uint64_t    begin     = align_down(position, align_);
            const uint64_t    piece_end = std::min(end, begin + bounce_bytes);
            const ReadSegment segment   = {bounce.get(align_), align_up(piece_end - begin, align_)};
            const ReadResult  result =
                read_fully(preadv_, file.direct_fd(), {&segment, 1, 0, 0}, begin, piece_end - begin, align_);
            if (result.outcome != Outcome::done) {
                return result;
            }
            scatter(op, position - op.offset, segment.dst + (position - begin), piece_end - position);
            position = piece_end;
        }
        return {};
    }

    ReadResult read_buffered(const DirectFile & file, const ReadOp & op) const {
        const Destination dst     = {op.segments.data(), op.segments.size(), 0, 0};
        const uint64_t    n_bytes = op.n_bytes();
        const ReadResult  result  = read_fully(preadv_, file.buffered_fd(), dst, op.offset, n_bytes, 1);
        file.drop_from_page_cache(op.offset, n_bytes);
        return result;
    }

    const Preadv              preadv_;
    std::deque<DirectFile>    files_; // they do not move
    uint32_t                  align_ = DirectFile::min_align;
    std::vector<BounceBuffer> bounce_; // [thread_idx]
    std::unique_ptr<ReadPool> pool_;   // last: its threads use everything above
};

} // namespace

std::unique_ptr<Reader> make_pread_reader(const std::vector<std::string> & paths, const PreadReaderOptions & options) {
    return std::make_unique<PreadReader>(paths, options);
}

} // namespace hobbit
