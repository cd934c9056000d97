// How far ahead is looked, and in which order what is seen there is read. Pure.
//
//   "fixed"        every layer up to `depth` ahead, the nearest first
//   "first-gap"    the nearest of them that lacks something, and no further (HOBBIT, arXiv 2411.01433, section 3.3)
//   "all-decayed"  all layers to the end of the pass, the share of each expert weighed by nearness (MoE-Infinity, arXiv
//                  2401.14361); `depth` bounds it if it is not 0
//   "expertflow"   as many layers as computing takes to hide the reads, corrected by what came late or for nothing
//                  (ExpertFlow, arXiv 2510.26730, the step size S); at most `depth`
#pragma once

#include <cstdint>
#include <string>

namespace hobbit {

enum class HorizonKind : uint8_t { fixed, first_gap, all_decayed, expertflow };

// Throws std::invalid_argument for an unknown name.
HorizonKind horizon_kind(const std::string & name);

// The step size S of ExpertFlow: the layers of computing that reading N_e experts takes,
// S = N_e * expert_bytes / (read_bytes_s * layer_s), plus one for every few that came late and minus one for every few
// that came for nothing. The papers leave the thresholds open; three of either is the choice here.
class StepController {
  public:
    explicit StepController(uint32_t max_steps) : max_steps_(max_steps) {}

    // Means of the drive and the layers; 0 while they are not measured. n_experts: N_e.
    void measure(double n_experts, double expert_bytes, double read_bytes_s, double layer_us);
    // Copies that came late, or for nothing, since the last call.
    void feedback(uint64_t n_late, uint64_t n_wasted);

    uint32_t n_steps() const;

  private:
    static constexpr uint64_t threshold = 3;

    uint32_t max_steps_;
    uint32_t base_       = 1;
    int32_t  correction_ = 0;
    uint64_t n_late_     = 0;
    uint64_t n_wasted_   = 0;
};

} // namespace hobbit
