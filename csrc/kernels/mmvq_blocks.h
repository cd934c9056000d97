// What the kernels of mmvq.h share.
#pragma once

#include "kernels/mmvq.h"

namespace hobbit::kernels {

struct Q8_0Block {
    uint16_t scale; // half precision
    int8_t   quants[32];
};

constexpr int64_t q8_0_weights     = 32;
constexpr int64_t blocks_per_input = MmvqKernel::input_weights / q8_0_weights;
static_assert(blocks_per_input * sizeof(Q8_0Block) == MmvqKernel::source_bytes);

float half_to_float(uint16_t half);
void  arrange_q8_0(const void * blocks, int64_t n_in, MmvqInput * inputs);

} // namespace hobbit::kernels
