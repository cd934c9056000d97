// Chooses the integers of a quantised matrix once more, so that its error matters less to what the matrix is
// multiplied with.
//
// A quantiser rounds every weight by itself. What counts is the error of the products, e' H e for a row's errors e and
// the second moments H of its inputs; where inputs go together, one weight's error can be made up for by another's.
// So starting from the quantiser's own choice, one integer after the other - levels of weights, scales and minimums of
// groups - is set to what is best for that sum while all others stay, and over again.
//
// The aim is that of Optimal Brain Quantization (Frantar, Singh, Alistarh: "Optimal Brain Compression", 2022) and GPTQ
// (Frantar et al., 2022); the descent is that of QuantEase (Behdin et al., 2023), extended to scales. It needs no
// inverse of H, and no step makes the sum larger.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit {

constexpr size_t max_levels = 16;

// Columns whose second moments are looked at together; those between two blocks count as 0.
constexpr size_t feedback_block = 256;

// How a type stores weights: super * step * values[level] - super_min * minimum, the two steps by group of weights.
struct RoundingFormat {
    size_t             group       = 0; // weights with one step and one minimum
    size_t             super_block = 0; // weights with one super and one super_min; divides feedback_block
    std::vector<float> values;          // of the levels, rising; at most max_levels
    int32_t            min_step = 0, max_step = 0;
    int32_t            max_minimum = 0; // minimums are 0 .. max_minimum; 0: the type has none
};

// The rows of a matrix; integers are changed in place.
struct RoundingRows {
    const RoundingFormat * format     = nullptr;
    size_t                 n_rows     = 0;
    size_t                 n_in       = 0;       // a multiple of format->super_block
    const float *          weights    = nullptr; // [n_rows][n_in]
    const float *          supers     = nullptr; // [n_rows][n_in / super_block]
    const float *          super_mins = nullptr; // as supers; nullptr without minimums
    uint8_t *              levels     = nullptr; // [n_rows][n_in]
    int8_t *               steps      = nullptr; // [n_rows][n_in / group]
    uint8_t *              minimums   = nullptr; // as steps; nullptr without minimums
};

// `moments` holds for every block of columns its [width][width] second moments, one after the other: symmetric, with a
// diagonal above 0. At most `n_rounds` rounds over all integers. Rows do not depend on each other.
void round_rows(const RoundingRows & rows, const float * moments, uint32_t n_rounds);

} // namespace hobbit
