// Four blocks are sixteen threads, a vector.
#include "kernels/mmvq_avx512.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

HOBBIT_AVX512_VNNI inline __m512i quants_of(const Q8_0Block * two) {
    const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(two[0].quants));
    const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(two[1].quants));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}

struct Q8_0Rows {
    using Block                        = Q8_0Block;
    using Inputs                       = Q8_0Inputs;
    static constexpr int64_t n_blocks  = Q8_0Inputs::n_blocks;
    static constexpr int64_t n_weights = n_blocks * q8_0_weights;
    static constexpr int64_t n_sums    = 1;
    static constexpr auto    arrange   = arrange_for_q8_0;

    HOBBIT_AVX512_VNNI static inline void add_blocks(__m512 * sums, const Block * blocks, const Inputs & input) {
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
        const __m512i dots   = _mm512_add_epi32(_mm512_add_epi32(_mm512_permutex2var_epi32(lower, evens, upper),
                                                                 _mm512_permutex2var_epi32(lower, odds, upper)),
                                                _mm512_load_si512(input.minus_128_sums));

        __m128i halves         = _mm_cvtsi32_si128(blocks[0].scale);
        halves                 = _mm_insert_epi16(halves, blocks[1].scale, 1);
        halves                 = _mm_insert_epi16(halves, blocks[2].scale, 2);
        halves                 = _mm_insert_epi16(halves, blocks[3].scale, 3);
        const __m128  scales   = _mm_mul_ps(_mm_cvtph_ps(halves), _mm_load_ps(input.scales));
        const __m512i of_block = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        sums[0]                = _mm512_fmadd_ps(_mm512_permutexvar_ps(of_block, _mm512_castps128_ps512(scales)),
                                                 _mm512_cvtepi32_ps(dots), sums[0]);
    }
};

} // namespace

const MmvqKernel * mmvq_q8_0_avx512() { return mmvq_kernel_of<Q8_0Rows>(); }

#else

const MmvqKernel * mmvq_q8_0_avx512() { return nullptr; }

#endif

} // namespace hobbit::kernels
