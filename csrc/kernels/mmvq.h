// Products of one token with quantised rows, rounded as ggml rounds them on CUDA devices.
//
// There (mul_mat_vec_q) a row is summed by 128 threads, each of which takes a few quants of every so many blocks, and
// adds what a block gives to its own sum. The sums of the four warps are added thread by thread, and those of the 32
// threads pairwise: distance 16, 8, 4, 2, 1. Sums of quants are integers, products of two scales in half precision are
// exact, and what is rounded is rounded in a known order. A core whose vectors stand for threads does the same.
//
// Whether a device does it like this is not asked but tried (moe/device_rounding.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit::kernels {

struct MmvqKernel {
    size_t  block_bytes;   // of the weights' type
    int64_t input_weights; // that are arranged at a time
    size_t  input_bytes;   // of them

    // inputs [n_in / input_weights] of Q8_0 blocks [n_in / 32], quantised by the device, whose division by a scale
    // need not be a CPU's. Aligned to 64. REQUIRES: n_in is a multiple of input_weights.
    void (*arrange)(const void * blocks, int64_t n_in, void * inputs);
    // outputs [n_rows] of weights [n_rows][n_in], rows back to back.
    void (*multiply)(const void * weights, int64_t n_in, int64_t n_rows, const void * inputs, float * outputs);
};

// Room for the inputs of one row.
class ArrangedInputs {
  public:
    ArrangedInputs(const MmvqKernel & kernel, int64_t n_in)
        : lines_(static_cast<size_t>(n_in / kernel.input_weights) * kernel.input_bytes / sizeof(Line) + 1) {}
    void * data() { return lines_.data(); }

  private:
    struct alignas(64) Line {
        unsigned char bytes[64];
    };
    std::vector<Line> lines_;
};

// The fastest that this processor has; nullptr: one without vectors would be slower than ggml's own product.
const MmvqKernel * mmvq_q8_0_kernel();
const MmvqKernel * mmvq_q4_k_kernel();
const MmvqKernel * mmvq_q5_k_kernel();
const MmvqKernel * mmvq_q6_k_kernel();

// One by one; nullptr: the processor lacks the instructions.
const MmvqKernel * mmvq_q8_0_avx512();
const MmvqKernel * mmvq_q4_k_avx512();
const MmvqKernel * mmvq_q5_k_avx512();
const MmvqKernel * mmvq_q6_k_avx512();
const MmvqKernel * mmvq_q8_0_avx2();
const MmvqKernel * mmvq_q4_k_avx2();
const MmvqKernel * mmvq_q5_k_avx2();
const MmvqKernel * mmvq_q6_k_avx2();

// For tests: thread by thread as above.
const MmvqKernel & mmvq_q8_0_reference();
const MmvqKernel & mmvq_q4_k_reference();
const MmvqKernel & mmvq_q5_k_reference();
const MmvqKernel & mmvq_q6_k_reference();

} // namespace hobbit::kernels
