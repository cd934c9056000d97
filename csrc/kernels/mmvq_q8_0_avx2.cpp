// Four blocks are sixteen threads, two vectors.
#include "kernels/mmvq_avx2.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

// Of four neighbouring quants each. A sum of two products fits into 16 bits, whatever the weights are: inputs are not
// below -127.
HOBBIT_AVX2 inline __m256i products_of(const Q8_0Block & block, const int8_t * inputs) {
    const __m256i weights = load_256(block.quants);
    const __m256i pairs   = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(load_256(inputs), weights));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// Adds two blocks to the sums of their threads.
HOBBIT_AVX2 inline __m256 add_two(__m256 sums, const Q8_0Block * blocks, const int8_t * inputs,
                                  const float * input_scales) {
    const __m256i dots   = _mm256_hadd_epi32(products_of(blocks[0], inputs), products_of(blocks[1], inputs + 32));
    const __m128  first  = _mm_set1_ps(_cvtsh_ss(blocks[0].scale) * input_scales[0]);
    const __m128  second = _mm_set1_ps(_cvtsh_ss(blocks[1].scale) * input_scales[1]);
    return _mm256_fmadd_ps(_mm256_set_m128(second, first),
                           _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(dots, 0xd8)), // block by block
                           sums);
}

struct Q8_0Rows {
    using Block                        = Q8_0Block;
    using Inputs                       = Q8_0Inputs;
    static constexpr int64_t n_blocks  = Q8_0Inputs::n_blocks;
    static constexpr int64_t n_weights = n_blocks * q8_0_weights;
    static constexpr int64_t n_sums    = 2;
    static constexpr auto    arrange   = arrange_for_q8_0;

    HOBBIT_AVX2 static inline void add_blocks(__m256 * sums, const Block * blocks, const Inputs & input) {
        ask_for(blocks);
        sums[0] = add_two(sums[0], blocks, input.quants, input.scales);
        sums[1] = add_two(sums[1], blocks + 2, input.quants + 64, input.scales + 2);
    }
};

} // namespace

const MmvqKernel * mmvq_q8_0_avx2() { return mmvq_avx2_kernel_of<Q8_0Rows>(); }

#else

const MmvqKernel * mmvq_q8_0_avx2() { return nullptr; }

#endif

} // namespace hobbit::kernels
