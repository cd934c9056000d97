// Products of quantised rows with few inputs, on cores with AVX-512 VNNI.
//
// ggml's own kernels for these types take each row by itself and sixteen rows at a time, so what a row costs besides
// its weights, and waiting for memory, weighs more than multiplying: 31 to 57 us for one matrix of an expert of 2048 x
// 768 on two Zen 4 cores that could read it in 25. These read ahead and take many rows at once.
//
// They are rounded as ggml rounds on AVX2 and better: inputs are quantised alike, the products of a block of 256
// weights are summed as integers in the same eight sums, and these are added up in the same order. So the results are
// the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hobbit::kernels {

constexpr int64_t block_weights = 256;

// 256 inputs, in the order in which Q2_K and Q3_K store weights: quants[i] has inputs 32 i .. 32 i + 31 and
// 128 + 32 i .. 128 + 32 i + 31.
struct alignas(64) InputBlock {
    int8_t  quants[4][64];
    int32_t minus_4_sums[4][16]; // of each four neighbouring quants
    int16_t sums[16];            // of each sixteen inputs, in their own order
    float   scale;
};

struct RowKernel {
    size_t block_bytes; // of 256 weights

    // blocks [n_in / 256] of inputs [n_in]. REQUIRES: n_in is a multiple of 256.
    void (*quantize)(const float * inputs, int64_t n_in, InputBlock * blocks);
    // outputs [n_rows] of weights [n_rows][n_in], rows back to back.
    void (*multiply)(const void * weights, int64_t n_in, int64_t n_rows, const InputBlock * blocks, float * outputs);
};

// nullptr: this processor lacks what the kernels need.
const RowKernel * q2_k_kernel();
const RowKernel * q3_k_kernel();
const RowKernel * iq4_xs_kernel();

} // namespace hobbit::kernels
