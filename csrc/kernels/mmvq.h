// Products of one token with quantised rows, rounded as ggml rounds them on CUDA devices.
//
// There (mul_mat_vec_q) a row is summed by 128 threads: thread i takes quants 8 (i % 4) .. 8 (i % 4) + 7 of blocks i /
// 4, i / 4 + 32, ..., and adds the products of each to its own sum with one rounding (fma). The sums of the four warps
// are added thread by thread, and those of the 32 threads pairwise: distance 16, 8, 4, 2, 1. Integers are exact and so
// are products of two scales in half precision; nothing else is rounded. A core with vectors for threads does the same.
//
// Whether a device does it like this is not asked but tried (moe/device_rounding.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace hobbit::kernels {

// Four blocks of 32 inputs, quantised by the device, whose division by a scale is not that of a CPU.
struct alignas(64) MmvqInput {
    int8_t  quants[128];
    int32_t minus_128_sums[16]; // of each eight quants
    float   scales[4];
};

struct MmvqKernel {
    using Input                            = MmvqInput;
    static constexpr int64_t input_weights = 128;    // of an Input
    static constexpr size_t  source_bytes  = 4 * 34; // that it is made of

    size_t block_bytes; // of 32 weights

    // inputs [n_in / 128] of Q8_0 blocks [n_in / 32]. REQUIRES: n_in is a multiple of 128.
    void (*arrange)(const void * blocks, int64_t n_in, MmvqInput * inputs);
    // outputs [n_rows] of weights [n_rows][n_in], rows back to back.
    void (*multiply)(const void * weights, int64_t n_in, int64_t n_rows, const MmvqInput * inputs, float * outputs);
};

// The fastest that this processor has; nullptr: one without vectors would be slower than ggml's own product.
const MmvqKernel * mmvq_q8_0_kernel();
// Each of them, for tests.
const MmvqKernel * mmvq_q8_0_avx512();
const MmvqKernel * mmvq_q8_0_avx2();
// Thread by thread, as above.
const MmvqKernel & mmvq_q8_0_reference();

} // namespace hobbit::kernels
