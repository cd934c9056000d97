// Q3_K: weight = scale * (group scale - 32) * (quant - 4), quants of three bits: two in `quants`, one in `high_bits`.
#include "kernels/avx512.h"

#include <cstring>

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

struct Block {
    uint8_t  high_bits[32];
    uint8_t  quants[64];
    uint8_t  group_scales[12]; // of six bits: four of each in the first eight bytes, two in the others
    uint16_t scale;            // half precision
};
static_assert(sizeof(Block) == 110);

HOBBIT_AVX512_VNNI inline __m128i group_scales_of(const Block & block) {
    int32_t upper_bits;
    std::memcpy(&upper_bits, block.group_scales + 8, sizeof(upper_bits));
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(block.group_scales));
    const __m128i lower = _mm_and_si128(_mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi8(0x0f));
    const __m128i upper =
        _mm_and_si128(_mm_srlv_epi32(_mm_set1_epi32(upper_bits), _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(0x03));
    return _mm_sub_epi8(_mm_or_si128(lower, _mm_slli_epi16(upper, 4)), _mm_set1_epi8(32));
}

// Adds the scaled products of quants[I]. The high bits are where quants[2] needs them.
template <int I>
HOBBIT_AVX512_VNNI inline __m512i add_products(__m512i sums, __m512i quants, __m512i high_bits,
                                               const GroupScales & scales, const InputBlock & input) {
    const __m512i low = _mm512_and_si512(I == 0 ? quants : _mm512_srli_epi16(quants, 2 * I), _mm512_set1_epi8(3));
    __m512i       high;
    if constexpr (I < 2) {
        high = _mm512_slli_epi16(high_bits, 2 - I);
    } else {
        high = _mm512_srli_epi16(high_bits, I - 2);
    }
    // low | (high & 4), in 0 .. 7
    const __m512i weights = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(4), 0xf8);
    const __m512i products =
        _mm512_dpbusd_epi32(_mm512_load_si512(input.minus_4_sums[I]), weights, _mm512_load_si512(input.quants[I]));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(products, scales.of_quants[I]));
}

HOBBIT_AVX512_VNNI float multiply_row(const Block * row, int64_t n_blocks, const InputBlock * inputs) {
    __m256 sums = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; ++i) {
        const Block & block = row[i];
        read_ahead(&block);
        const GroupScales scales = spread(group_scales_of(block));
        const __m512i     quants = _mm512_loadu_si512(block.quants);
        const __m256i     bits   = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block.high_bits));
        // Inputs 128 and up have the upper four bits of each byte.
        const __m512i high_bits = _mm512_inserti64x4(_mm512_castsi256_si512(bits), _mm256_srli_epi16(bits, 4), 1);
        __m512i       products  = _mm512_setzero_si512();
        products                = add_products<0>(products, quants, high_bits, scales, inputs[i]);
        products                = add_products<1>(products, quants, high_bits, scales, inputs[i]);
        products                = add_products<2>(products, quants, high_bits, scales, inputs[i]);
        products                = add_products<3>(products, quants, high_bits, scales, inputs[i]);
        sums = _mm256_fmadd_ps(_mm256_set1_ps(inputs[i].scale * _cvtsh_ss(block.scale)), eight_sums(products), sums);
    }
    return sum_of(sums);
}

} // namespace

const RowKernel * q3_k_kernel() { return kernel_of<Block, multiply_row>(); }

#else

const RowKernel * q3_k_kernel() { return nullptr; }

#endif

} // namespace hobbit::kernels
