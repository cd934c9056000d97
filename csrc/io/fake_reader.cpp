#include "io/fake_reader.h"

#include "io/read_op.h"
#include "io/read_pool.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace hobbit {

namespace {

class FakeReader final : public Reader {
  public:
    FakeReader(std::vector<std::vector<std::byte>> files, const FakeReaderOptions & options)
        : files_(std::move(files)), options_(options),
          pool_(options.n_threads,
                [this](const ReadOp & op, uint64_t op_number, uint32_t) { return read(op, op_number); }) {}

    void     set_completion(Completion completion) override { pool_.set_completion(std::move(completion)); }
    void     submit(std::vector<ReadOp> ops) override { pool_.submit(std::move(ops)); }
    uint32_t queue_depth() const override { return pool_.n_threads(); }
    uint32_t alignment() const override { return options_.alignment; }
    void     drain() override { pool_.drain(); }

  private:
    FakeReadEvent event_of(uint64_t op_number) const {
        for (const FakeReadEvent & event : options_.events) {
            if (event.op_number == op_number) {
                return event;
            }
        }
        return {op_number, options_.latency_us, 0, false};
    }

    Status read(const ReadOp & op, uint64_t op_number) const {
        assert(op.file_idx < files_.size());
        const FakeReadEvent event = event_of(op_number);
        if (event.latency_us > 0) {
            std::this_thread::sleep_for(std::chrono::microseconds(event.latency_us));
        }
        const std::string path = "fake file " + std::to_string(op.file_idx);
        if (event.os_errno != 0) {
            return read_error(op, path, event.os_errno);
        }
        const uint64_t n_bytes = op.n_bytes();
        if (n_bytes == 0) {
            return {};
        }
        const std::vector<std::byte> & file = files_[op.file_idx];

        const uint64_t n_left   = op.offset < file.size() ? file.size() - op.offset : 0;
        const uint64_t n_copied = std::min(event.short_read ? n_bytes - 1 : n_bytes, n_left);
        if (n_copied > 0) {
            scatter(op, 0, file.data() + op.offset, n_copied);
        }
        if (n_copied < n_bytes) {
            return read_error(op, path, 0);
        }
        if (is_congruent(op, options_.alignment)) {
            overwrite_slack(op, file);
        }
        return {};
    }

    // As a direct read does; a caller that promised slack it does not own shows up as damage.
    void overwrite_slack(const ReadOp & op, const std::vector<std::byte> & file) const {
        const uint64_t begin = align_down(op.offset, options_.alignment);
        const uint64_t end   = op.offset + op.n_bytes();
        const uint64_t tail  = std::min<uint64_t>(align_up(end, options_.alignment), file.size()) - end;

        const ReadSegment & first = op.segments.front();
        const ReadSegment & last  = op.segments.back();
        std::memcpy(first.dst - (op.offset - begin), file.data() + begin, op.offset - begin);
        std::memcpy(last.dst + last.n_bytes, file.data() + end, tail);
    }

    const std::vector<std::vector<std::byte>> files_;
    const FakeReaderOptions                   options_;
    ReadPool                                  pool_; // last: its threads use everything above
};

} // namespace

std::unique_ptr<Reader> make_fake_reader(std::vector<std::vector<std::byte>> files, const FakeReaderOptions & options) {
    return std::make_unique<FakeReader>(std::move(files), options);
}

} // namespace hobbit
