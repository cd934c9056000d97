// What the kernels share. Only for files whose functions run behind has_avx512_vnni().
#pragma once

#include "kernels/row_kernel.h"

#if defined(__x86_64__)

#    if defined(__GNUC__) && !defined(__clang__)
// GCC warns of deliberately undefined registers in its own header (GCC bug 105593).
#        pragma GCC diagnostic ignored "-Wuninitialized"
#        pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#    endif
#    include <immintrin.h>

// Functions with it may use the instructions whatever the build's flags are, and are inlined into such functions only.
#    define HOBBIT_AVX512_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

namespace hobbit::kernels {

bool has_avx512_vnni();
void quantize_inputs(const float * inputs, int64_t n_in, InputBlock * blocks);

// Weights are asked for this much before they are used: further than a core does it by itself, since blocks do not fill
// whole cache lines. 1, 2 and 4 KiB: 29.6, 25.4 and 25.1 us a matrix; none: 30.6.
constexpr int64_t read_ahead_bytes = 4096;

HOBBIT_AVX512_VNNI inline void read_ahead(const void * weights) {
    const char * at = static_cast<const char *>(weights) + read_ahead_bytes;
    _mm_prefetch(at, _MM_HINT_T0);
    _mm_prefetch(at + 64, _MM_HINT_T0);
}

// In the order of ggml's kernels.
HOBBIT_AVX512_VNNI inline float sum_of(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v));
    sum        = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// Sixteen sums of four products each, i of the lower half with i of the upper.
HOBBIT_AVX512_VNNI inline __m256 eight_sums(__m512i sums) {
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1)));
}

// The scales of a block's 16 groups of 16 weights, where the sums of InputBlock::quants[i] need them: each in the lower
// half of four sums' 32 bits.
struct GroupScales {
    __m512i of_quants[4];
};

HOBBIT_AVX512_VNNI inline GroupScales spread(__m128i scales) {
    constexpr __mmask32 lower_halves = 0x55555555;
    const __m512i       words        = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(scales));
    // Sums 0..3, 4..7, 8..11 and 12..15 of quants[0] are of groups 0, 1, 8 and 9; of quants[1] two further.
    __m512i       group = _mm512_set_epi32(9, 9, 9, 9, 8, 8, 8, 8, 1, 1, 1, 1, 0, 0, 0, 0);
    const __m512i two   = _mm512_set1_epi32(2);
    GroupScales   spread_scales;
    for (__m512i & s : spread_scales.of_quants) {
        s     = _mm512_maskz_permutexvar_epi16(lower_halves, group, words);
        group = _mm512_add_epi32(group, two);
    }
    return spread_scales;
}

template <typename Block, float (*multiply_row)(const Block * row, int64_t n_blocks, const InputBlock * inputs)>
HOBBIT_AVX512_VNNI void multiply_rows(const void * weights, int64_t n_in, int64_t n_rows, const InputBlock * inputs,
                                      float * outputs) {
    const int64_t n_blocks = n_in / block_weights;
    const auto *  row      = static_cast<const Block *>(weights);
    for (int64_t i = 0; i < n_rows; ++i, row += n_blocks) {
        outputs[i] = multiply_row(row, n_blocks, inputs);
    }
}

template <typename Block, float (*multiply_row)(const Block *, int64_t, const InputBlock *)>
const RowKernel * kernel_of() {
    static const RowKernel kernel = {sizeof(Block), quantize_inputs, multiply_rows<Block, multiply_row>};
    static const bool      runs   = has_avx512_vnni();
    return runs ? &kernel : nullptr;
}

} // namespace hobbit::kernels

#endif
