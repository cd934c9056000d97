// How much may be read ahead before the next step: what the drive can bring while nothing that is wanted keeps it busy.
//
// After the overlap-aware admission of MoE-Infinity (github.com/EfficientMoE/MoE-Infinity, pull request 180), with the
// window measured instead of estimated from compute time: it begins when the last read of a step's own experts is done
// and ends with the next step. Guesses that nobody wants close the budget, but for a trial now and then.
//
// Pure: times are handed in, in microseconds of one steady clock. The loader calls it under its mutex.
#pragma once

#include <cstdint>

namespace hobbit {

class PrefetchBudget {
  public:
    // A step begins: the window before it ends.
    void on_step(uint64_t now_us);
    // Nothing that a step wants is queued or in flight any more: a window begins, unless one is open.
    void on_free(uint64_t now_us);

    // Reads were submitted, or one of n_bytes completed, and n_in_flight are with the drive now.
    void on_submit(uint64_t now_us);
    void on_complete(uint64_t now_us, uint64_t n_bytes, uint32_t n_in_flight);

    // A copy that was read ahead was wanted, or went without.
    void on_judged(bool was_wanted);

    // Bytes to read ahead in the window that is coming. Copies are begun while fewer than these were admitted, so a
    // positive budget admits at least one. To be called once a step.
    uint64_t take();

    // What the drive can surely bring in a window, whatever it is read for; never 0.
    uint64_t idle_bytes() const { return window_bytes(safety); }

    // Medium-term means; 0 until they were measured.
    double read_bytes_s() const { return read_bytes_s_; }
    double window_us() const { return window_us_; }
    double step_us() const { return step_us_; } // from step to step, waits included

  private:
    uint64_t window_bytes(double share) const;

    static constexpr double alpha        = 0.2; // weight of the latest sample
    static constexpr double judged_alpha = 1.0 / 32;
    static constexpr double safety       = 0.8; // of the window: a read should end before the step begins
    // Of the window, for guesses that are all wanted, and down to 1 as fewer are: windows differ, and what goes on into
    // the step is mostly what that step wants. Decoding 3.9 GB in an arena of a quarter with stacked gates (83% right),
    // 3 instead of 0.8 took 1.5% to 6% less time for a byte; with request traces (a third right) 2 took 3% more.
    static constexpr double   surplus    = 2.0;
    static constexpr double   min_wanted = 0.5; // share of guesses below which reading ahead costs more than it gives
    static constexpr uint64_t max_bytes  = 256 << 20;
    static constexpr uint32_t steps_per_trial = 64;

    uint64_t last_step_us_  = 0;
    uint64_t free_since_us_ = 0; // 0: something is wanted
    uint64_t busy_since_us_ = 0; // 0: the drive is idle
    uint64_t busy_bytes_    = 0;
    double   window_us_     = 0;
    double   step_us_       = 0;
    double   read_bytes_s_  = 0;
    double   wanted_share_  = 1;
    uint32_t n_refused_     = 0; // steps since the last trial
};

} // namespace hobbit
