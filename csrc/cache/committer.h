// Commits the pages of arenas in the background, so that a read which a token waits for does not pay for it.
//
// The kernel clears a page when it is first written to. In a fresh arena that falls to the thread that reads an expert
// into it: half of all CPU time of a first answer on a virtual machine that gets its memory page by page.
#pragma once

#include "cache/arena.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace hobbit {

class Committer {
  public:
    // The arenas are borrowed; those of somebody else's memory are left alone. Commits evenly over all of them, from
    // their beginning on, at the lowest priority there is. Where the system cannot do that it does nothing.
    explicit Committer(const std::vector<Arena> & arenas);
    ~Committer(); // ends within a few pages
    Committer(const Committer &)             = delete;
    Committer & operator=(const Committer &) = delete;

    void wait(); // until all is committed; once

  private:
    struct Span {
        std::byte * data        = nullptr;
        uint64_t    n_bytes     = 0;
        uint64_t    n_committed = 0;
    };

    void run() noexcept;

    std::vector<Span> spans_; // the thread's own once it runs
    std::atomic<bool> stopping_{false};
    std::thread       thread_;
};

} // namespace hobbit
