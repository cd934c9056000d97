#include "cache/committer.h"

#include "base/signals.h"

#include <algorithm>
#include <sched.h>
#include <sys/mman.h>
#include <system_error>

namespace hobbit {

namespace {

constexpr uint64_t step_bytes = 2 << 20; // a huge page

#ifdef MADV_POPULATE_WRITE
bool commit(std::byte * data, uint64_t n_bytes) { return madvise(data, n_bytes, MADV_POPULATE_WRITE) == 0; }
#else
bool commit(std::byte *, uint64_t) { return false; }
#endif

// Only what no other thread has a use for: a token never waits for this one.
void take_lowest_priority() {
#ifdef SCHED_IDLE
    const sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
#endif
}

} // namespace

Committer::Committer(const std::vector<Arena> & arenas) {
    for (const Arena & arena : arenas) {
        if (arena.is_lazy() && arena.n_bytes() >= step_bytes) {
            spans_.push_back({arena.data(), arena.n_bytes(), 0});
        }
    }
    if (spans_.empty()) {
        return;
    }
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error &) {
        // No thread to be had: pages are committed as they are used.
    }
}

Committer::~Committer() {
    stopping_ = true;
    wait();
}

void Committer::wait() {
    if (thread_.joinable()) {
        thread_.join();
    }
}

void Committer::run() noexcept {
    block_signals();
    take_lowest_priority();
    while (!stopping_) {
        const auto share = [](const Span & span) {
            return static_cast<double>(span.n_committed) / static_cast<double>(span.n_bytes);
        };
        Span & span = *std::min_element(spans_.begin(), spans_.end(),
                                        [&](const Span & a, const Span & b) { return share(a) < share(b); });
        if (span.n_committed == span.n_bytes) {
            return; // the one that is behind is done: all are
        }
        const uint64_t n = std::min(step_bytes, span.n_bytes - span.n_committed);
        if (!commit(span.data + span.n_committed, n)) {
            return; // an older kernel, or no memory left: whoever needs a page will find out
        }
        span.n_committed += n;
    }
}

} // namespace hobbit
