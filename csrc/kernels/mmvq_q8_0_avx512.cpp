// Sixteen threads of the device are a vector here: the eight sums of four blocks' worth of threads each are the 128 of
// a row.
#include "kernels/avx512.h"
#include "kernels/mmvq_blocks.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

constexpr int64_t n_sums = 8;

HOBBIT_AVX512_VNNI inline __m512i quants_of(const Q8_0Block * two) {
    const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(two[0].quants));
    const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(two[1].quants));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}

// Adds four blocks to the sums of their threads.
HOBBIT_AVX512_VNNI inline __m512 add_blocks(__m512 sums, const Q8_0Block * blocks, const MmvqInput & input) {
    read_ahead(blocks);
    // The instruction takes unsigned quants: 128 more, and 128 times the inputs too much.
    const __m512i unsign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i zero   = _mm512_setzero_si512();
    const __m512i lower  = _mm512_dpbusd_epi32(zero, _mm512_xor_si512(quants_of(blocks), unsign),
                                               _mm512_load_si512(input.quants)); // of four quants each
    const __m512i upper  = _mm512_dpbusd_epi32(zero, _mm512_xor_si512(quants_of(blocks + 2), unsign),
                                               _mm512_load_si512(input.quants + 64));
    const __m512i evens  = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odds   = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i dots   = _mm512_add_epi32(
        _mm512_add_epi32(_mm512_permutex2var_epi32(lower, evens, upper), _mm512_permutex2var_epi32(lower, odds, upper)),
        _mm512_load_si512(input.minus_128_sums));

    __m128i halves         = _mm_cvtsi32_si128(blocks[0].scale);
    halves                 = _mm_insert_epi16(halves, blocks[1].scale, 1);
    halves                 = _mm_insert_epi16(halves, blocks[2].scale, 2);
    halves                 = _mm_insert_epi16(halves, blocks[3].scale, 3);
    const __m128  scales   = _mm_mul_ps(_mm_cvtph_ps(halves), _mm_load_ps(input.scales));
    const __m512i of_block = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_fmadd_ps(_mm512_permutexvar_ps(of_block, _mm512_castps128_ps512(scales)), _mm512_cvtepi32_ps(dots),
                           sums);
}

HOBBIT_AVX512_VNNI float multiply_row(const Q8_0Block * row, int64_t n_inputs, const MmvqInput * inputs) {
    __m512 sums[n_sums];
    for (__m512 & s : sums) {
        s = _mm512_setzero_ps();
    }
    int64_t first = 0;
    for (; first + n_sums <= n_inputs; first += n_sums) {
#    pragma GCC unroll 8
        for (int64_t i = 0; i < n_sums; ++i) {
            sums[i] = add_blocks(sums[i], row + (first + i) * blocks_per_input, inputs[first + i]);
        }
    }
#    pragma GCC unroll 8
    for (int64_t i = 0; i < n_sums; ++i) {
        if (first + i < n_inputs) {
            sums[i] = add_blocks(sums[i], row + (first + i) * blocks_per_input, inputs[first + i]);
        }
    }
    // Two sums are a warp.
    const __m512 lower = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[2]), sums[4]), sums[6]);
    const __m512 upper = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(sums[1], sums[3]), sums[5]), sums[7]);
    const __m512 lanes = _mm512_add_ps(lower, upper);
    return sum_of(_mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1)));
}

HOBBIT_AVX512_VNNI void multiply(const void * weights, int64_t n_in, int64_t n_rows, const MmvqInput * inputs,
                                 float * outputs) {
    const auto * row = static_cast<const Q8_0Block *>(weights);
    for (int64_t i = 0; i < n_rows; ++i, row += n_in / q8_0_weights) {
        outputs[i] = multiply_row(row, n_in / MmvqKernel::input_weights, inputs);
    }
}

} // namespace

const MmvqKernel * mmvq_q8_0_avx512() {
    static const MmvqKernel kernel = {sizeof(Q8_0Block), arrange_q8_0, multiply};
    static const bool       runs   = has_avx512_vnni();
    return runs ? &kernel : nullptr;
}

#else

const MmvqKernel * mmvq_q8_0_avx512() { return nullptr; }

#endif

const MmvqKernel * mmvq_q8_0_kernel() {
    const MmvqKernel * kernel = mmvq_q8_0_avx512();
    return kernel != nullptr ? kernel : mmvq_q8_0_avx2();
}

} // namespace hobbit::kernels
