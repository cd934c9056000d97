// Which copy of a selected expert a token gets: the token-level half of HOBBIT (arXiv 2411.01433, section 3.2).
//
// Pure: no locks, no IO, no state. Each has a twin in Python (hobbit_py.policies) that is its readable specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace hobbit {

// What a token gets of an expert. `promote`: the lo copy now, and its hi copy is read as soon as the drive has time.
enum class Choice : uint8_t { skip = 0, lo = 1, hi = 2, promote = 3 };

inline bool wants_hi(Choice choice) { return choice == Choice::hi || choice == Choice::promote; }

// Where the tokens of a batch differ over an expert, this one holds for all of them.
inline Choice most_demanding(Choice a, Choice b) {
    constexpr uint8_t demand[] = {0, 1, 3, 2}; // [choice]
    return demand[static_cast<size_t>(a)] >= demand[static_cast<size_t>(b)] ? a : b;
}

// The best copy of an expert that is in memory and complete.
enum class Resident : uint8_t { none = 0, lo = 1, hi = 2 };

class PrecisionPolicy {
  public:
    virtual ~PrecisionPolicy() = default;

    // One token in one layer. gate_weights [n_used] descend and sum to 1; resident and choices are [n_used].
    virtual void choose(uint16_t layer_idx, const float * gate_weights, const Resident * resident, uint32_t n_used,
                        Choice * choices) const = 0;

    // Whether every choice is hi whatever the weights: then they need not be asked for.
    virtual bool is_exact() const { return false; }
};

// Everything in hi: exact mode.
std::unique_ptr<PrecisionPolicy> make_always_high();

// Everything in lo, except what is resident in hi.
std::unique_ptr<PrecisionPolicy> make_always_low();

// HOBBIT's scorer. A resident hi copy serves. Otherwise the gate mass of the better experts of the token, s, decides:
// hi if s <= t1, lo if s <= t2, skipped beyond; the best expert is always hi. With lo_serves_hi a resident lo copy
// serves where hi was chosen, until the hi copy is there. t1 >= 1 is exact mode.
std::unique_ptr<PrecisionPolicy> make_thresholds(float t1, float t2, bool lo_serves_hi);

// By the expert's own weight: without a hi copy it gets one from hi_above on, else its lo copy, which below skip_below
// is not read if it is missing: the expert is skipped. hi_above is that of layer 0 and falls by `fall` from each layer
// to the next. Below wait_above a resident lo copy serves where hi was chosen, until the hi copy is there. hi_above and
// wait_above <= 0 is exact mode.
std::unique_ptr<PrecisionPolicy> make_weight_thresholds(double hi_above, float skip_below, float wait_above,
                                                        double fall);

// Spends a budget of gate mass: from the lightest expert up, missing ones go lo while the mass in lo stays within
// lo_mass, and the lightest of those are skipped while the mass skipped stays within skip_mass. The best is always hi.
std::unique_ptr<PrecisionPolicy> make_mass_budget(float lo_mass, float skip_mass);

} // namespace hobbit
