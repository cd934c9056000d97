// Waiting without sleeping, for what comes within microseconds: to be woken takes longer, on virtual machines 50 us.
#pragma once

#include <chrono>
#include <thread>

namespace hobbit {

// Until `is_there()` or for `max_us`. Gives its core to others that want it meanwhile.
template <typename Condition> void spin_until(const Condition & is_there, int64_t max_us) {
    using Clock    = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::microseconds(max_us);
    while (!is_there() && Clock::now() < end) {
        std::this_thread::yield();
    }
}

} // namespace hobbit
