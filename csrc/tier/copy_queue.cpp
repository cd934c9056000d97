#include "tier/copy_queue.h"

#include "base/signals.h"
#include "base/spin.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

namespace hobbit {

namespace {

// While tokens are computed the next layer's copies come before that.
constexpr int64_t max_idle_spin_us = 200;

} // namespace

CopyQueue::CopyQueue(DeviceMemory & memory, uint64_t chunk_bytes, Done done)
    : memory_(memory), chunk_bytes_(chunk_bytes), done_(std::move(done)), thread_([this] { run(); }) {
    assert(chunk_bytes > 0);
}

CopyQueue::~CopyQueue() {
    {
        MutexLock lock(mu_);
        closing_ = true;
        demand_.clear();
        background_.clear();
    }
    changed_.notify_all();
    thread_.join();
}

void CopyQueue::push(const CopyJob & job, bool is_demand) {
    assert(job.n_bytes > 0);
    {
        MutexLock lock(mu_);
        (is_demand ? demand_ : background_).push_back({job, false});
    }
    n_pushed_++;
    changed_.notify_all();
}

void CopyQueue::raise(uint64_t tag) {
    MutexLock  lock(mu_);
    const auto found =
        std::find_if(background_.begin(), background_.end(), [tag](const Queued & q) { return q.job.tag == tag; });
    if (found != background_.end()) {
        demand_.push_back(*found);
        background_.erase(found);
    }
}

bool CopyQueue::cancel(uint64_t tag) { return cancel(tag, false); }

bool CopyQueue::give_up(uint64_t tag) { return cancel(tag, true); }

bool CopyQueue::cancel(uint64_t tag, bool cut_begun) {
    MutexLock lock(mu_);
    for (std::deque<Queued> * jobs : {&demand_, &background_}) {
        const auto found =
            std::find_if(jobs->begin(), jobs->end(), [tag](const Queued & q) { return q.job.tag == tag; });
        if (found == jobs->end()) {
            continue;
        }
        if (found->is_begun) {
            found->job.n_bytes = cut_begun ? 0 : found->job.n_bytes;
            return false;
        }
        jobs->erase(found);
        return true;
    }
    return false; // its last chunk is under way
}

uint64_t CopyQueue::n_bytes_under_way() const {
    MutexLock lock(mu_);
    return n_bytes_under_way_;
}

uint64_t CopyQueue::n_bytes_left(uint64_t tag) const {
    MutexLock lock(mu_);
    uint64_t  n = 0;
    for (const std::deque<Queued> * jobs : {&demand_, &background_}) {
        for (const Queued & queued : *jobs) {
            n += queued.job.tag == tag ? queued.job.n_bytes : 0;
        }
    }
    return n;
}

CopyStats CopyQueue::stats() const {
    MutexLock lock(mu_);
    return stats_;
}

CopyQueue::Chunk CopyQueue::take_chunk() {
    Chunk chunk;
    chunk.is_demand           = !demand_.empty();
    std::deque<Queued> & jobs = chunk.is_demand ? demand_ : background_;
    CopyJob &            job  = jobs.front().job;
    jobs.front().is_begun     = true;
    chunk.job                 = job;
    chunk.job.n_bytes         = std::min(job.n_bytes, chunk_bytes_);
    chunk.is_last             = chunk.job.n_bytes == job.n_bytes;
    uint64_t & n_copied       = chunk.is_demand ? stats_.demand_bytes : stats_.background_bytes;
    n_copied += chunk.job.n_bytes;
    n_bytes_under_way_ += chunk.job.n_bytes;
    if (chunk.is_last) {
        jobs.pop_front();
    } else {
        job.offset += chunk.job.n_bytes;
        job.src += chunk.job.n_bytes;
        job.n_bytes -= chunk.job.n_bytes;
    }
    return chunk;
}

void CopyQueue::complete(const Chunk & chunk) {
    {
        MutexLock lock(mu_);
        n_bytes_under_way_ -= chunk.job.n_bytes;
    }
    if (chunk.is_last) {
        done_(chunk.job.tag);
    }
}

void CopyQueue::run() {
    using Clock = std::chrono::steady_clock;
    block_signals();
    Chunk             under_way; // the copy begun last
    bool              is_busy = false;
    Clock::time_point since; // when the link was last accounted for
    uint64_t          n_seen = 0;
    for (;;) {
        Chunk next;
        bool  has_next = false;
        if (!is_busy) {
            spin_until([&] { return n_pushed_ != n_seen; }, max_idle_spin_us);
        }
        n_seen = n_pushed_;
        {
            MutexLock lock(mu_);
            while (!is_busy && !closing_ && demand_.empty() && background_.empty()) {
                changed_.wait(mu_);
            }
            if (is_busy) {
                stats_.busy_us += static_cast<uint64_t>(
                    std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since).count());
            }
            since = Clock::now();
            if (!demand_.empty() || !background_.empty()) {
                next     = take_chunk();
                has_next = true;
            } else if (!is_busy) {
                return; // closing
            }
        }
        if (has_next && next.job.n_bytes == 0) { // what was begun of it has to be complete
            if (is_busy) {
                memory_.wait(0);
                complete(under_way);
            }
            complete(next);
            is_busy = false;
            continue;
        }
        if (has_next) {
            memory_.copy(next.job.area_idx, next.job.offset, next.job.src, next.job.n_bytes);
        }
        if (is_busy) {
            memory_.wait(has_next ? 1 : 0);
            complete(under_way);
        }
        under_way = next;
        is_busy   = has_next;
    }
}

} // namespace hobbit
