#include "io/read_pool.h"

#include "base/signals.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <new>
#include <utility>

namespace hobbit {

ReadPool::ReadPool(uint32_t n_threads, Perform perform, Timeline * timeline)
    : n_threads_(std::max(n_threads, 1u)), perform_(std::move(perform)), timeline_(timeline) {
    threads_.reserve(n_threads_);
    try {
        for (uint32_t i = 0; i < n_threads_; ++i) {
            threads_.emplace_back([this, i] { work(i); });
        }
    } catch (...) {
        stop_and_join();
        throw;
    }
}

ReadPool::~ReadPool() {
    drain();
    stop_and_join();
}

void ReadPool::stop_and_join() {
    {
        MutexLock lock(mu_);
        stopping_ = true;
    }
    job_queued_.notify_all();
    for (std::thread & thread : threads_) {
        thread.join();
    }
}

void ReadPool::set_completion(Reader::Completion completion) {
    assert(!completion_ && "set_completion() is called once");
    completion_ = std::move(completion);
}

void ReadPool::submit(std::vector<ReadOp> ops) {
    assert(completion_ && "set_completion() comes before submit()");
    const size_t   n_ops  = ops.size();
    const uint64_t now_us = timeline_ != nullptr && timeline_->is_on() ? Timeline::now_us() : 0;
    {
        MutexLock lock(mu_);
        for (ReadOp & op : ops) {
            queue_.push_back({std::move(op), n_submitted_++, now_us});
            ++n_unfinished_;
        }
    }
    for (size_t i = 0; i < std::min<size_t>(n_ops, n_threads_); ++i) {
        job_queued_.notify_one();
    }
}

void ReadPool::drain() {
    MutexLock lock(mu_);
    while (n_unfinished_ > 0) {
        all_done_.wait(mu_);
    }
}

void ReadPool::work(uint32_t thread_idx) noexcept {
    block_signals();
    while (true) {
        Job job;
        {
            MutexLock lock(mu_);
            while (queue_.empty() && !stopping_) {
                job_queued_.wait(mu_);
            }
            if (queue_.empty()) {
                return;
            }
            job = std::move(queue_.front());
            queue_.pop_front();
        }
        const uint64_t start_us = job.submitted_us > 0 ? Timeline::now_us() : 0;
        const Status   status   = perform(job, thread_idx);
        if (start_us > 0) {
            const uint64_t n_bytes = job.op.n_bytes();
            timeline_->add({Timeline::Kind::queued, thread_idx, job.submitted_us, start_us, 0, n_bytes});
            timeline_->add({Timeline::Kind::read, thread_idx, start_us, Timeline::now_us(), 0, n_bytes});
        }
        completion_(job.op.tag, status);

        // Notified under the lock: a drain() in the destructor may return, and destroy all_done_, once it is released.
        MutexLock lock(mu_);
        if (--n_unfinished_ == 0) {
            all_done_.notify_all();
        }
    }
}

Status ReadPool::perform(const Job & job, uint32_t thread_idx) noexcept {
    try {
        return perform_(job.op, job.number, thread_idx);
    } catch (const std::bad_alloc &) {
        return Status::error("out of memory", ENOMEM); // short enough for a string without an allocation
    }
}

} // namespace hobbit
