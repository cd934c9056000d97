// Whether compute leaves some cores to the threads that read: while tokens wait for the drive a good part of the time.
//
// Where a compute thread shares its core with one that reads, all others wait for it after every operation; where
// little is read, each thread less is computing lost. On 4 cores 3 threads instead of 4 decoded 24.0 tok/s for 19.2
// where a third of the time was waited, and 35.2 for 42.6 where a twentieth was.
#pragma once

#include <cstdint>

namespace hobbit {

class ThreadShare {
  public:
    // Of the passes through the layers.
    void on_pass(uint64_t pass_us, uint64_t stall_us) {
        if (pass_us > 0) {
            stall_share_ += alpha * (static_cast<double>(stall_us) / static_cast<double>(pass_us) - stall_share_);
        }
        spares_ = stall_share_ > (spares_ ? all_below : spare_above);
    }

    // How many of n_threads compute if up to n_spare may be spared; at least one.
    int n_computing(int n_threads, int n_spare) const {
        const int n_left = spares_ ? n_threads - n_spare : n_threads;
        return n_left > 0 ? n_left : 1;
    }

  private:
    static constexpr double alpha       = 1.0 / 8; // weight of the latest pass
    static constexpr double spare_above = 0.25;    // share of the time; two of them, since changing costs new threads
    static constexpr double all_below   = 0.10;

    double stall_share_ = 0;
    bool   spares_      = false;
};

} // namespace hobbit
