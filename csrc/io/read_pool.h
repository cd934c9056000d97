// The threads of a reader: takes operations first in, first out, and reports each one's status.
//
// One lock, `mu_`, guards the queue; it is held neither while reading nor during a completion.
#pragma once

#include "base/mutex.h"
#include "base/timeline.h"
#include "io/reader.h"

#include <deque>
#include <thread>

namespace hobbit {

class ReadPool {
  public:
    // Reads one operation. `op_number` counts submissions from 0, `thread_idx` is < n_threads.
    using Perform = std::function<Status(const ReadOp & op, uint64_t op_number, uint32_t thread_idx)>;

    // Throws std::system_error if a thread cannot be started.
    // Reads are recorded on `timeline`, if there is one, with the time they were queued.
    ReadPool(uint32_t n_threads, Perform perform, Timeline * timeline = nullptr);
    ~ReadPool();
    ReadPool(const ReadPool &)             = delete;
    ReadPool & operator=(const ReadPool &) = delete;

    void     set_completion(Reader::Completion completion);
    void     submit(std::vector<ReadOp> ops);
    void     drain();
    uint32_t n_threads() const { return n_threads_; }

  private:
    struct Job {
        ReadOp   op;
        uint64_t number       = 0;
        uint64_t submitted_us = 0; // while a timeline records
    };

    void   work(uint32_t thread_idx) noexcept;
    Status perform(const Job & job, uint32_t thread_idx) noexcept;
    void   stop_and_join();

    const uint32_t     n_threads_;
    const Perform      perform_;
    Timeline * const   timeline_;
    Reader::Completion completion_; // written before the first submit(), which publishes it to the threads

    Mutex                  mu_;
    CondVar                job_queued_;
    CondVar                all_done_;
    std::deque<Job> queue_ HOBBIT_GUARDED_BY(mu_);
    uint64_t n_submitted_  HOBBIT_GUARDED_BY(mu_) = 0;
    uint64_t n_unfinished_ HOBBIT_GUARDED_BY(mu_) = 0; // queued, being read or in their completion
    bool stopping_         HOBBIT_GUARDED_BY(mu_) = false;

    std::vector<std::thread> threads_; // last: they use everything above
};

} // namespace hobbit
