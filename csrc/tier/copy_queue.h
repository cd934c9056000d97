// Copies to the device in chunks, what a token waits for before what may be wanted later.
//
// A copy that has begun cannot be taken back, so long ones are cut: a demand waits for two chunks of others at most,
// one on the link and one behind it that keeps the link busy.
#pragma once

#include "base/mutex.h"
#include "tier/device_memory.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

namespace hobbit {

struct CopyJob {
    uint64_t          tag      = 0; // the caller's
    uint32_t          area_idx = 0;
    uint64_t          offset   = 0;
    const std::byte * src      = nullptr;
    uint64_t          n_bytes  = 0;
};

struct CopyStats {
    uint64_t demand_bytes     = 0; // copied for a token that waited
    uint64_t background_bytes = 0;
    uint64_t busy_us          = 0; // a copy was under way
};

class CopyQueue {
  public:
    // Called on the queue's thread, without a lock, once all bytes of a job have arrived; must not throw.
    using Done = std::function<void(uint64_t tag)>;

    CopyQueue(DeviceMemory & memory, uint64_t chunk_bytes, Done done);
    // Drops what has not begun, waits for the rest. A dropped job has no completion.
    ~CopyQueue();
    CopyQueue(const CopyQueue &)             = delete;
    CopyQueue & operator=(const CopyQueue &) = delete;

    void push(const CopyJob & job, bool is_demand);
    // A job of the background is waited for now.
    void raise(uint64_t tag);
    // Takes back a job of which nothing was begun; it has no completion then. False: it goes on.
    bool cancel(uint64_t tag);
    // Gives a job up. True: as cancel(). False: it completes soon, with what was begun of it alone.
    bool give_up(uint64_t tag);

    uint64_t  n_bytes_under_way() const;
    uint64_t  n_bytes_left(uint64_t tag) const; // not begun of a job
    CopyStats stats() const;

  private:
    struct Queued {
        CopyJob job; // what is left of it
        bool    is_begun = false;
    };
    struct Chunk {
        CopyJob job; // of this chunk alone; 0 bytes: of a job that was given up
        bool    is_last   = false;
        bool    is_demand = false;
    };

    void run();
    bool cancel(uint64_t tag, bool cut_begun);

    void  complete(const Chunk & chunk);
    Chunk take_chunk() HOBBIT_REQUIRES(mu_);

    DeviceMemory & memory_;
    const uint64_t chunk_bytes_;
    const Done     done_;

    mutable Mutex                  mu_;
    CondVar                        changed_;
    std::deque<Queued> demand_     HOBBIT_GUARDED_BY(mu_);
    std::deque<Queued> background_ HOBBIT_GUARDED_BY(mu_);
    CopyStats stats_               HOBBIT_GUARDED_BY(mu_);
    uint64_t n_bytes_under_way_    HOBBIT_GUARDED_BY(mu_) = 0;
    std::atomic<uint64_t>          n_pushed_{0};
    bool closing_                  HOBBIT_GUARDED_BY(mu_) = false;

    std::thread thread_; // last: it uses the others
};

} // namespace hobbit
