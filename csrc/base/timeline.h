// What happened when, for a profile: spans on lanes. Off unless somebody records; then one short lock an event.
#pragma once

#include "base/mutex.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace hobbit {

class Timeline {
  public:
    enum class Kind : uint8_t {
        compute, // a run of nodes on the inner device
        stall,   // compute waits for the drive
        read,    // one operation of a reading thread
        queued,  // the same operation, from its submission to its begin
    };
    struct Span {
        Kind     kind      = Kind::compute;
        uint32_t lane      = 0; // of its kind: the reading thread
        uint64_t start_us  = 0; // of a steady clock
        uint64_t end_us    = 0;
        uint32_t layer_idx = 0; // compute: the layer whose experts end the run; stall: the layer that waits
        uint64_t n_bytes   = 0; // reads
    };

    static uint64_t now_us() {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since).count());
    }

    // Forgets what was recorded and keeps up to max_spans; 0 ends recording.
    void start(size_t max_spans) {
        MutexLock lock(mu_);
        spans_.clear();
        spans_.reserve(max_spans);
        max_spans_ = max_spans;
        is_on_     = max_spans > 0;
    }
    std::vector<Span> take() {
        MutexLock lock(mu_);
        is_on_ = false;
        return std::move(spans_);
    }
    bool is_on() const { return is_on_.load(std::memory_order_relaxed); }

    void add(const Span & span) {
        MutexLock lock(mu_);
        if (spans_.size() < max_spans_) {
            spans_.push_back(span);
        }
    }

  private:
    std::atomic<bool>        is_on_{false};
    Mutex                    mu_; // a leaf: nothing else is locked under it
    std::vector<Span> spans_ HOBBIT_GUARDED_BY(mu_);
    size_t max_spans_        HOBBIT_GUARDED_BY(mu_) = 0;
};

// Adds a span from its making to its end; nothing if nobody records.
class TimelineSpan {
  public:
    TimelineSpan(Timeline & timeline, Timeline::Kind kind, uint32_t layer_idx)
        : timeline_(timeline), is_on_(timeline.is_on()) {
        if (is_on_) {
            span_.kind      = kind;
            span_.layer_idx = layer_idx;
            span_.start_us  = Timeline::now_us();
        }
    }
    ~TimelineSpan() {
        if (is_on_) {
            span_.end_us = Timeline::now_us();
            timeline_.add(span_);
        }
    }
    TimelineSpan(const TimelineSpan &)             = delete;
    TimelineSpan & operator=(const TimelineSpan &) = delete;

  private:
    Timeline &     timeline_;
    const bool     is_on_;
    Timeline::Span span_;
};

} // namespace hobbit
