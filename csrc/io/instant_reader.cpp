#include "io/instant_reader.h"

#include <deque>
#include <utility>

namespace hobbit {

namespace {

class InstantReader final : public Reader {
  public:
    explicit InstantReader(uint32_t alignment) : alignment_(alignment) {}

    void set_completion(Completion completion) override { completion_ = std::move(completion); }

    // A completion may submit more; a queue instead of recursion keeps the stack flat.
    void submit(std::vector<ReadOp> ops) override {
        for (const ReadOp & op : ops) {
            tags_.push_back(op.tag);
        }
        if (is_draining_) {
            return;
        }
        is_draining_ = true;
        while (!tags_.empty()) {
            const uint64_t tag = tags_.front();
            tags_.pop_front();
            completion_(tag, Status());
        }
        is_draining_ = false;
    }
    uint32_t queue_depth() const override { return 4; }
    uint32_t alignment() const override { return alignment_; }
    void     drain() override {}

  private:
    const uint32_t       alignment_;
    Completion           completion_;
    std::deque<uint64_t> tags_;
    bool                 is_draining_ = false;
};

} // namespace

std::unique_ptr<Reader> make_instant_reader(uint32_t alignment) { return std::make_unique<InstantReader>(alignment); }

} // namespace hobbit
