// Q2_K: weight = scale * group scale * quant - min_scale * group min, quants of two bits.
#include "kernels/avx512.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

struct Block {
    uint8_t  group_scales[16]; // the lower four bits; the upper: group mins
    uint8_t  quants[64];
    uint16_t scale; // half precision
    uint16_t min_scale;
};
static_assert(sizeof(Block) == 84);

// Adds the scaled products of quants[I].
template <int I>
HOBBIT_AVX512_VNNI inline __m512i add_products(__m512i sums, __m512i quants, const GroupScales & scales,
                                               const InputBlock & input) {
    const __m512i weights  = _mm512_and_si512(I == 0 ? quants : _mm512_srli_epi16(quants, 2 * I), _mm512_set1_epi8(3));
    const __m512i products = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, _mm512_load_si512(input.quants[I]));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(products, scales.of_quants[I]));
}

HOBBIT_AVX512_VNNI float multiply_row(const Block * row, int64_t n_blocks, const InputBlock * inputs) {
    const __m128i lower_bits = _mm_set1_epi8(0x0f);
    __m256        sums       = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; ++i) {
        const Block &      block = row[i];
        const InputBlock & input = inputs[i];
        read_ahead(&block);
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(block.group_scales));
        const __m256i mins  = _mm256_cvtepi8_epi16(_mm_and_si128(_mm_srli_epi16(bytes, 4), lower_bits));
        const __m256i of_mins =
            _mm256_madd_epi16(mins, _mm256_load_si256(reinterpret_cast<const __m256i *>(input.sums)));
        sums = _mm256_fmadd_ps(_mm256_set1_ps(-input.scale * _cvtsh_ss(block.min_scale)), _mm256_cvtepi32_ps(of_mins),
                               sums);
        const GroupScales scales   = spread(_mm_and_si128(bytes, lower_bits));
        const __m512i     quants   = _mm512_loadu_si512(block.quants);
        __m512i           products = _mm512_setzero_si512();
        products                   = add_products<0>(products, quants, scales, input);
        products                   = add_products<1>(products, quants, scales, input);
        products                   = add_products<2>(products, quants, scales, input);
        products                   = add_products<3>(products, quants, scales, input);
        sums = _mm256_fmadd_ps(_mm256_set1_ps(input.scale * _cvtsh_ss(block.scale)), eight_sums(products), sums);
    }
    return sum_of(sums);
}

} // namespace

const RowKernel * q2_k_kernel() { return kernel_of<Block, multiply_row>(); }

#else

const RowKernel * q2_k_kernel() { return nullptr; }

#endif

} // namespace hobbit::kernels
