// What the kernels of mmvq.h share on cores with AVX-512 VNNI.
#pragma once

#include "kernels/avx512.h"
#include "kernels/mmvq_blocks.h"

#if defined(__x86_64__)

namespace hobbit::kernels {

// Of 128 threads, sixteen a vector, two vectors a warp.
constexpr int64_t n_thread_sums = 8;

HOBBIT_AVX512_VNNI inline float sum_of_threads(const __m512 * sums) {
    const __m512 lower = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[2]), sums[4]), sums[6]);
    const __m512 upper = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(sums[1], sums[3]), sums[5]), sums[7]);
    const __m512 lanes = _mm512_add_ps(lower, upper);
    return sum_of(_mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1)));
}

// What Rows::add_blocks() adds to Rows::n_sums of the vectors comes from Rows::n_blocks blocks, and from as many of
// each eight vectors' worth in turn.
template <typename Rows>
HOBBIT_AVX512_VNNI float multiply_row(const typename Rows::Block * row, int64_t n_steps,
                                      const typename Rows::Inputs * inputs) {
    constexpr int64_t n_turns = n_thread_sums / Rows::n_sums;
    __m512            sums[n_thread_sums];
    for (__m512 & s : sums) {
        s = _mm512_setzero_ps();
    }
    int64_t first = 0;
    for (; first + n_turns <= n_steps; first += n_turns) {
#    pragma GCC unroll 8
        for (int64_t i = 0; i < n_turns; ++i) {
            Rows::add_blocks(sums + i * Rows::n_sums, row + (first + i) * Rows::n_blocks, inputs[first + i]);
        }
    }
#    pragma GCC unroll 8
    for (int64_t i = 0; i < n_turns; ++i) {
        if (first + i < n_steps) {
            Rows::add_blocks(sums + i * Rows::n_sums, row + (first + i) * Rows::n_blocks, inputs[first + i]);
        }
    }
    return sum_of_threads(sums);
}

template <typename Rows>
HOBBIT_AVX512_VNNI void multiply_mmvq(const void * weights, int64_t n_in, int64_t n_rows, const void * inputs,
                                      float * outputs) {
    const int64_t n_steps = n_in / Rows::n_weights;
    const auto *  row     = static_cast<const typename Rows::Block *>(weights);
    for (int64_t i = 0; i < n_rows; ++i, row += n_steps * Rows::n_blocks) {
        outputs[i] = multiply_row<Rows>(row, n_steps, static_cast<const typename Rows::Inputs *>(inputs));
    }
}

template <typename Rows> const MmvqKernel * mmvq_kernel_of() {
    static const MmvqKernel kernel = {sizeof(typename Rows::Block), Rows::n_weights, sizeof(typename Rows::Inputs),
                                      Rows::arrange, multiply_mmvq<Rows>};
    static const bool       runs   = has_avx512_vnni();
    return runs ? &kernel : nullptr;
}

} // namespace hobbit::kernels

#endif
