// IQ4_XS: weight = scale * (group scale - 32) * values[quant], quants of four bits, groups of 32 weights.
#include "kernels/avx512.h"

#include <cstring>

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

struct Block {
    uint16_t scale;             // half precision
    uint16_t group_scales_high; // two bits for each group
    uint8_t  group_scales_low[4];
    uint8_t  quants[128]; // a group has 16 bytes: its first 16 weights are in the lower bits, the others in the upper
};
static_assert(sizeof(Block) == 136);

// The type's values plus 128, so that they can be the unsigned factor of a product.
HOBBIT_AVX512_VNNI inline __m512i values_plus_128() {
    return _mm512_broadcast_i32x4(_mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, static_cast<char>(129),
                                                static_cast<char>(141), static_cast<char>(153), static_cast<char>(166),
                                                static_cast<char>(181), static_cast<char>(197), static_cast<char>(217),
                                                static_cast<char>(241)));
}

HOBBIT_AVX512_VNNI inline __m512i group_scales_of(const Block & block) {
    int32_t low;
    std::memcpy(&low, block.group_scales_low, sizeof(low));
    const __m256i low_bits =
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                         _mm256_set1_epi32(0x0f));
    const __m256i high_bits = _mm256_and_si256(
        _mm256_srlv_epi32(_mm256_set1_epi32(block.group_scales_high), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)),
        _mm256_set1_epi32(0x03));
    return _mm512_castsi256_si512(
        _mm256_sub_epi32(_mm256_or_si256(low_bits, _mm256_slli_epi32(high_bits, 4)), _mm256_set1_epi32(32)));
}

// Adds the scaled products of quants[I]: groups I and 4 + I, which are quarters I of `first` and of `last`.
template <int I>
HOBBIT_AVX512_VNNI inline __m512i add_products(__m512i sums, __m512i first, __m512i last, __m512i group_scales,
                                               const InputBlock & input) {
    const __m512i upper_bits = _mm512_set_epi32(4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0);
    const __m512i groups     = _mm512_shuffle_i64x2(first, last, I * 0x55);
    const __m512i quants     = _mm512_and_si512(_mm512_srlv_epi32(groups, upper_bits), _mm512_set1_epi8(0x0f));
    const __m512i weights    = _mm512_shuffle_epi8(values_plus_128(), quants);
    const __m512i products   = _mm512_dpbusd_epi32(_mm512_slli_epi32(_mm512_load_si512(input.minus_4_sums[I]), 5),
                                                   weights, _mm512_load_si512(input.quants[I]));
    const __m512i of_groups =
        _mm512_set_epi32(4 + I, 4 + I, 4 + I, 4 + I, 4 + I, 4 + I, 4 + I, 4 + I, I, I, I, I, I, I, I, I);
    return _mm512_add_epi32(sums, _mm512_mullo_epi32(products, _mm512_permutexvar_epi32(of_groups, group_scales)));
}

HOBBIT_AVX512_VNNI float multiply_row(const Block * row, int64_t n_blocks, const InputBlock * inputs) {
    __m256 sums = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; ++i) {
        const Block & block = row[i];
        read_ahead(&block);
        const __m512i scales   = group_scales_of(block);
        const __m512i first    = _mm512_loadu_si512(block.quants);
        const __m512i last     = _mm512_loadu_si512(block.quants + 64);
        __m512i       products = _mm512_setzero_si512();
        products               = add_products<0>(products, first, last, scales, inputs[i]);
        products               = add_products<1>(products, first, last, scales, inputs[i]);
        products               = add_products<2>(products, first, last, scales, inputs[i]);
        products               = add_products<3>(products, first, last, scales, inputs[i]);
        sums = _mm256_fmadd_ps(_mm256_set1_ps(inputs[i].scale * _cvtsh_ss(block.scale)), eight_sums(products), sums);
    }
    return sum_of(sums);
}

} // namespace

const RowKernel * iq4_xs_kernel() { return kernel_of<Block, multiply_row>(); }

#else

const RowKernel * iq4_xs_kernel() { return nullptr; }

#endif

} // namespace hobbit::kernels
