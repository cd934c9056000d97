// As mmvq_q8_0_avx512.cpp, with eight threads of the device a vector.
#include "kernels/mmvq_blocks.h"

#if defined(__x86_64__)
#    include <immintrin.h>
#    define HOBBIT_AVX2 __attribute__((target("avx2,fma,f16c")))
#endif

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

constexpr int64_t n_weights       = Q8_0Inputs::n_blocks * q8_0_weights;
constexpr int64_t n_sums          = 16;
constexpr int64_t sums_per_input  = 2;
constexpr int64_t inputs_per_pass = n_sums / sums_per_input;

// Of four neighbouring quants each. A sum of two products fits into 16 bits, whatever the weights are: inputs are not
// below -127.
HOBBIT_AVX2 inline __m256i products_of(const Q8_0Block & block, const int8_t * inputs) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block.quants));
    const __m256i quants  = _mm256_load_si256(reinterpret_cast<const __m256i *>(inputs));
    const __m256i pairs   = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(quants, weights));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// Adds two blocks to the sums of their threads.
HOBBIT_AVX2 inline __m256 add_blocks(__m256 sums, const Q8_0Block * blocks, const int8_t * inputs,
                                     const float * input_scales) {
    const __m256i dots   = _mm256_hadd_epi32(products_of(blocks[0], inputs), products_of(blocks[1], inputs + 32));
    const __m128  first  = _mm_set1_ps(_cvtsh_ss(blocks[0].scale) * input_scales[0]);
    const __m128  second = _mm_set1_ps(_cvtsh_ss(blocks[1].scale) * input_scales[1]);
    return _mm256_fmadd_ps(_mm256_set_m128(second, first),
                           _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(dots, 0xd8)), // block by block
                           sums);
}

HOBBIT_AVX2 float multiply_row(const Q8_0Block * row, int64_t n_inputs, const Q8_0Inputs * inputs) {
    __m256 sums[n_sums];
    for (__m256 & s : sums) {
        s = _mm256_setzero_ps();
    }
    for (int64_t first = 0; first < n_inputs; first += inputs_per_pass) {
        const int64_t n = n_inputs - first < inputs_per_pass ? n_inputs - first : inputs_per_pass;
        for (int64_t i = 0; i < n; ++i) {
            const Q8_0Block *  blocks = row + (first + i) * Q8_0Inputs::n_blocks;
            const Q8_0Inputs & input  = inputs[first + i];
            _mm_prefetch(reinterpret_cast<const char *>(blocks) + 4096, _MM_HINT_T0);
            _mm_prefetch(reinterpret_cast<const char *>(blocks) + 4096 + 64, _MM_HINT_T0);
            sums[2 * i]     = add_blocks(sums[2 * i], blocks, input.quants, input.scales);
            sums[2 * i + 1] = add_blocks(sums[2 * i + 1], blocks + 2, input.quants + 64, input.scales + 2);
        }
    }
    __m256 lanes[4]; // four sums are a warp
    for (int i = 0; i < 4; ++i) {
        lanes[i] = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(sums[i], sums[i + 4]), sums[i + 8]), sums[i + 12]);
    }
    const __m256 of_8 = _mm256_add_ps(_mm256_add_ps(lanes[0], lanes[2]), _mm256_add_ps(lanes[1], lanes[3]));
    __m128       sum  = _mm_add_ps(_mm256_castps256_ps128(of_8), _mm256_extractf128_ps(of_8, 1));
    sum               = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

HOBBIT_AVX2 void multiply(const void * weights, int64_t n_in, int64_t n_rows, const void * inputs, float * outputs) {
    const auto * row = static_cast<const Q8_0Block *>(weights);
    for (int64_t i = 0; i < n_rows; ++i, row += n_in / q8_0_weights) {
        outputs[i] = multiply_row(row, n_in / n_weights, static_cast<const Q8_0Inputs *>(inputs));
    }
}

} // namespace

const MmvqKernel * mmvq_q8_0_avx2() {
    static const MmvqKernel kernel = {sizeof(Q8_0Block), n_weights, sizeof(Q8_0Inputs), arrange_for_q8_0, multiply};
    static const bool       runs =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return runs ? &kernel : nullptr;
}

#else

const MmvqKernel * mmvq_q8_0_avx2() { return nullptr; }

#endif

} // namespace hobbit::kernels
