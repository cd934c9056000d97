// A reader whose operations end when the test says so, in the order it says: every interleaving on one thread.
#pragma once

#include "io/reader.h"
#include "loader_fixture.h"

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace hobbit::testing {

class ManualReader final : public Reader {
  public:
    explicit ManualReader(const TinyModel & model, uint32_t queue_depth = 4)
        : model_(model), queue_depth_(queue_depth) {}

    void set_completion(Completion completion) override { completion_ = std::move(completion); }
    void submit(std::vector<ReadOp> ops) override {
        for (ReadOp & op : ops) {
            pending_.push_back(std::move(op));
        }
    }
    uint32_t queue_depth() const override { return queue_depth_; }
    uint32_t alignment() const override { return TinyModel::align; }
    void     drain() override {
        while (!pending_.empty()) {
            complete(0);
        }
    }

    const std::vector<ReadOp> & pending() const { return pending_; }

    // Ends a pending operation; one that fails has written nothing.
    void complete(size_t idx, bool fails = false) {
        const ReadOp op = std::move(pending_[idx]);
        pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(idx));
        uint64_t offset = op.offset;
        for (const ReadSegment & segment : op.segments) {
            if (!fails) {
                std::memcpy(segment.dst, model_.files[op.file_idx].data() + offset, segment.n_bytes);
            }
            offset += segment.n_bytes;
        }
        completion_(op.tag, fails ? Status::error("made to fail", EIO) : Status());
    }

    // Whether an operation reads something of a copy; one that was merged reads of several.
    bool reads(const ReadOp & op, ExpertKey key) const {
        bool any = op.file_idx == static_cast<uint32_t>(key.precision);
        for (uint32_t part_idx = 0; any && part_idx < model_.layers[key.layer_idx].part_bytes.size(); part_idx++) {
            const FileExtent e = model_.extent(key, part_idx);
            if (op.offset < e.offset + e.n_bytes && e.offset < op.offset + op.n_bytes()) {
                return true;
            }
        }
        return false;
    }

  private:
    const TinyModel &   model_;
    const uint32_t      queue_depth_;
    Completion          completion_;
    std::vector<ReadOp> pending_;
};

// A loader over a manual reader.
struct ManualBench {
    const TinyModel & model;
    ManualReader      reader;
    Loader            loader;

    ManualBench(const TinyModel & tiny, const LoaderOptions & options, uint32_t queue_depth = 4)
        : model(tiny), reader(tiny, queue_depth),
          loader(
              tiny.layouts, tiny.n_expert(),
              [&tiny](ExpertKey key, uint32_t part_idx) { return tiny.extent(key, part_idx); }, reader, options) {}

    ~ManualBench() {
        reader.drain();
        loader.check_invariants();
    }
};

} // namespace hobbit::testing
