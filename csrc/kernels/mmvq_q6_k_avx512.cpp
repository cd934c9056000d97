// A block is 32 threads, two vectors.
#include "kernels/mmvq_avx512.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

struct Q6KRows {
    using Block                        = Q6KBlock;
    using Inputs                       = Q6KInputs;
    static constexpr int64_t n_blocks  = 1;
    static constexpr int64_t n_weights = k_weights;
    static constexpr int64_t n_sums    = 2;
    static constexpr auto    arrange   = arrange_for_q6_k;

    HOBBIT_AVX512_VNNI static inline void add_blocks(__m512 * sums, const Block * block, const Inputs & input) {
        read_ahead(block);
        const __m512i lower_bits = _mm512_set1_epi8(0x0f);
        const __m512i upper_bits = _mm512_set1_epi8(0x30);
        const __m512i by_eight   = _mm512_set_epi32(2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0);
        const __m512i scales =
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(block->group_scales)));
        const __m512i of_four = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        const __m512  scale   = _mm512_set1_ps(_cvtsh_ss(block->scale));
#    pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m512i lower       = _mm512_loadu_si512(block->lower + 64 * half);
            const __m256i four_groups = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block->upper + 32 * half));
            const __m512i upper       = _mm512_srlv_epi32(_mm512_broadcast_i64x4(four_groups), by_eight);
            __m512        of_groups   = _mm512_setzero_ps();
#    pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                const __m512i quants =
                    _mm512_or_si512(_mm512_and_si512(i == 0 ? lower : _mm512_srli_epi16(lower, 4), lower_bits),
                                    _mm512_and_si512(i == 0 ? _mm512_slli_epi16(upper, 4) : upper, upper_bits));
                const __m512i dots  = _mm512_dpbusd_epi32(_mm512_load_si512(input.minus_32_sums[half][i]), quants,
                                                          _mm512_load_si512(input.quants[half][i]));
                const __m512i group = _mm512_add_epi32(of_four, _mm512_set1_epi32(8 * half + 4 * i));
                // Both fit into 16 bits; the upper halves, which are signs, must not count.
                const __m512i of_group =
                    _mm512_and_si512(_mm512_permutexvar_epi32(group, scales), _mm512_set1_epi32(0xffff));
                of_groups = _mm512_fmadd_ps(_mm512_load_ps(input.scales[half][i]),
                                            _mm512_cvtepi32_ps(_mm512_madd_epi16(dots, of_group)), of_groups);
            }
            sums[half] = _mm512_fmadd_ps(scale, of_groups, sums[half]);
        }
    }
};

} // namespace

const MmvqKernel * mmvq_q6_k_avx512() { return mmvq_kernel_of<Q6KRows>(); }

#else

const MmvqKernel * mmvq_q6_k_avx512() { return nullptr; }

#endif

} // namespace hobbit::kernels
