// What the kernels of mmvq.h share on cores with AVX2, FMA and F16C: as mmvq_avx512.h, with eight threads of the device
// a vector.
#pragma once

#include "kernels/mmvq_blocks.h"

#if defined(__x86_64__)

#    include <immintrin.h>

// Functions with it may use the instructions whatever the build's flags are, and are inlined into such functions only.
#    define HOBBIT_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace hobbit::kernels {

// Of 128 threads; four vectors are a warp.
constexpr int64_t n_avx2_sums = 16;

HOBBIT_AVX2 inline void ask_for(const void * weights) { // how far ahead: as in avx512.h
    const char * at = static_cast<const char *>(weights) + 4096;
    _mm_prefetch(at, _MM_HINT_T0);
    _mm_prefetch(at + 64, _MM_HINT_T0);
}

HOBBIT_AVX2 inline __m256i load_256(const void * p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
HOBBIT_AVX2 inline __m128i load_128(const void * p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }

// Sums of two products each, unsigned quants with signed ones. REQUIRES: they fit into 16 bits.
HOBBIT_AVX2 inline __m256i pairs_of(__m256i quants, const int8_t * inputs) {
    return _mm256_maddubs_epi16(quants, load_256(inputs));
}

// One number for the first four threads of a vector, one for the others.
HOBBIT_AVX2 inline __m256i by_four(int first, int second) {
    return _mm256_set_epi32(second, second, second, second, first, first, first, first);
}

HOBBIT_AVX2 inline float sum_of_threads(const __m256 * sums) {
    __m256 lanes[4];
    for (int i = 0; i < 4; ++i) {
        lanes[i] = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(sums[i], sums[i + 4]), sums[i + 8]), sums[i + 12]);
    }
    const __m256 of_8 = _mm256_add_ps(_mm256_add_ps(lanes[0], lanes[2]), _mm256_add_ps(lanes[1], lanes[3]));
    __m128       sum  = _mm_add_ps(_mm256_castps256_ps128(of_8), _mm256_extractf128_ps(of_8, 1));
    sum               = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// What Rows::add_blocks() adds to Rows::n_sums of the vectors comes from Rows::n_blocks blocks, and from as many of
// each sixteen vectors' worth in turn.
template <typename Rows>
HOBBIT_AVX2 float multiply_row_avx2(const typename Rows::Block * row, int64_t n_steps,
                                    const typename Rows::Inputs * inputs) {
    constexpr int64_t n_turns = n_avx2_sums / Rows::n_sums;
    __m256            sums[n_avx2_sums];
    for (__m256 & s : sums) {
        s = _mm256_setzero_ps();
    }
    for (int64_t first = 0; first < n_steps; first += n_turns) {
        const int64_t n = n_steps - first < n_turns ? n_steps - first : n_turns;
        for (int64_t i = 0; i < n; ++i) {
            Rows::add_blocks(sums + i * Rows::n_sums, row + (first + i) * Rows::n_blocks, inputs[first + i]);
        }
    }
    return sum_of_threads(sums);
}

template <typename Rows>
HOBBIT_AVX2 void multiply_mmvq_avx2(const void * weights, int64_t n_in, int64_t n_rows, const void * inputs,
                                    float * outputs) {
    const int64_t n_steps = n_in / Rows::n_weights;
    const auto *  row     = static_cast<const typename Rows::Block *>(weights);
    for (int64_t i = 0; i < n_rows; ++i, row += n_steps * Rows::n_blocks) {
        outputs[i] = multiply_row_avx2<Rows>(row, n_steps, static_cast<const typename Rows::Inputs *>(inputs));
    }
}

template <typename Rows> const MmvqKernel * mmvq_avx2_kernel_of() {
    static const MmvqKernel kernel = {sizeof(typename Rows::Block), Rows::n_weights, sizeof(typename Rows::Inputs),
                                      Rows::arrange, multiply_mmvq_avx2<Rows>};
    static const bool       runs =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return runs ? &kernel : nullptr;
}

} // namespace hobbit::kernels

#endif
