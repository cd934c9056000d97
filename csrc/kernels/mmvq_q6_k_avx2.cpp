// A block is 32 threads, four vectors.
#include "kernels/mmvq_avx2.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

struct Q6KRows {
    using Block                        = Q6KBlock;
    using Inputs                       = Q6KInputs;
    static constexpr int64_t n_blocks  = 1;
    static constexpr int64_t n_weights = k_weights;
    static constexpr int64_t n_sums    = 4;
    static constexpr auto    arrange   = arrange_for_q6_k;

    HOBBIT_AVX2 static inline void add_blocks(__m256 * sums, const Block * block, const Inputs & input) {
        ask_for(block);
        const __m256i lower_bits = _mm256_set1_epi8(0x0f);
        const __m256i upper_bits = _mm256_set1_epi8(0x30);
        const __m256  scale      = _mm256_set1_ps(_cvtsh_ss(block->scale));
        for (int half = 0; half < 2; ++half) {
            const __m256i four_groups = load_256(block->upper + 32 * half);
            const __m256i scales      = _mm256_cvtepi8_epi32(
                _mm_loadl_epi64(reinterpret_cast<const __m128i *>(block->group_scales + 8 * half))); // its eight
            for (int eight = 0; eight < 2; ++eight) { // of the half's threads
                const __m256i lower     = load_256(block->lower + 64 * half + 32 * eight);
                const __m256i upper     = eight == 0 ? four_groups : _mm256_srli_epi16(four_groups, 2);
                __m256        of_groups = _mm256_setzero_ps();
                for (int i = 0; i < 2; ++i) {
                    const __m256i quants =
                        _mm256_or_si256(_mm256_and_si256(i == 0 ? lower : _mm256_srli_epi16(lower, 4), lower_bits),
                                        _mm256_and_si256(i == 0 ? _mm256_slli_epi16(upper, 4) : upper, upper_bits));
                    const __m256i dots = _mm256_add_epi32(
                        load_256(input.minus_32_sums[half][i] + 8 * eight),
                        _mm256_madd_epi16(pairs_of(quants, input.quants[half][i] + 32 * eight), _mm256_set1_epi16(1)));
                    const __m256i group = by_four(2 * eight + 4 * i, 2 * eight + 4 * i + 1);
                    // Both fit into 16 bits; the upper halves, which are signs, must not count.
                    const __m256i of_group =
                        _mm256_and_si256(_mm256_permutevar8x32_epi32(scales, group), _mm256_set1_epi32(0xffff));
                    of_groups = _mm256_fmadd_ps(_mm256_load_ps(input.scales[half][i] + 8 * eight),
                                                _mm256_cvtepi32_ps(_mm256_madd_epi16(dots, of_group)), of_groups);
                }
                __m256 & sum = sums[2 * half + eight];
                sum          = _mm256_fmadd_ps(scale, of_groups, sum);
            }
        }
    }
};

} // namespace

const MmvqKernel * mmvq_q6_k_avx2() { return mmvq_avx2_kernel_of<Q6KRows>(); }

#else

const MmvqKernel * mmvq_q6_k_avx2() { return nullptr; }

#endif

} // namespace hobbit::kernels
