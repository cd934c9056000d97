// A block is sixteen threads, a vector.
#include "kernels/mmvq_avx512.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

HOBBIT_AVX512_VNNI inline __m512i upper_bits_of(const Q4KBlock *, int, int) { return _mm512_setzero_si512(); }

// Bit 4 of the quants of half a group, in all four pairs of groups.
HOBBIT_AVX512_VNNI inline __m512i upper_bits_of(const Q5KBlock * block, int i, int half) {
    const __m128i bits    = _mm_loadu_si128(reinterpret_cast<const __m128i *>(block->upper + 16 * half));
    const __m512i of_pair = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0);
    const __m512i group   = _mm512_add_epi32(of_pair, _mm512_set1_epi32(i));
    const __m512i first   = _mm512_srlv_epi32(_mm512_broadcast_i32x4(bits), group);
    return _mm512_and_si512(_mm512_slli_epi16(first, 4), _mm512_set1_epi8(0x10));
}

template <typename WeightBlock> struct Rows {
    using Block                        = WeightBlock;
    using Inputs                       = Q4KInputs;
    static constexpr int64_t n_blocks  = 1;
    static constexpr int64_t n_weights = k_weights;
    static constexpr int64_t n_sums    = 1;
    static constexpr auto    arrange   = arrange_for_q4_k;

    HOBBIT_AVX512_VNNI static inline void add_blocks(__m512 * sums, const Block * block, const Inputs & input) {
        read_ahead(block);
        const __m512i lower_bits = _mm512_set1_epi8(0x0f);
        const __m512i first      = _mm512_loadu_si512(block->quants);
        const __m512i second     = _mm512_loadu_si512(block->quants + 64);
        const __m512i halves[2]  = {_mm512_shuffle_i32x4(first, second, 0x88), // of 32 bytes each
                                    _mm512_shuffle_i32x4(first, second, 0xdd)};

        const auto    of_group = unpack_scales_and_mins(block->group_scales);
        const __m128i all  = _mm_set_epi32(static_cast<int>(of_group.mins[1]), static_cast<int>(of_group.mins[0]),
                                           static_cast<int>(of_group.scales[1]), static_cast<int>(of_group.scales[0]));
        const __m512i wide = _mm512_cvtepu8_epi32(all); // scales 0..7, mins 8..15
        const __m512i of_pair = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0);

        __m512 of_scales = _mm512_setzero_ps(), of_mins = _mm512_setzero_ps();
#    pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            __m512i dots = _mm512_setzero_si512();
            for (int half = 0; half < 2; ++half) {
                const __m512i lower =
                    _mm512_and_si512(i == 0 ? halves[half] : _mm512_srli_epi16(halves[half], 4), lower_bits);
                const __m512i quants = _mm512_or_si512(lower, upper_bits_of(block, i, half));
                dots                 = _mm512_dpbusd_epi32(dots, quants, _mm512_load_si512(input.quants[i][half]));
            }
            const __m512i group  = _mm512_add_epi32(of_pair, _mm512_set1_epi32(i));
            const __m512i scales = _mm512_permutexvar_epi32(group, wide);
            const __m512i mins   = _mm512_permutexvar_epi32(_mm512_add_epi32(group, _mm512_set1_epi32(8)), wide);
            // Sums fit into 16 bits, and scales have no upper half.
            const __m512i scaled   = _mm512_madd_epi16(dots, scales);
            const __m512i least    = _mm512_madd_epi16(_mm512_load_si512(input.sums[i]), mins);
            const __m512  of_input = _mm512_load_ps(input.scales[i]);
            of_scales              = _mm512_fmadd_ps(of_input, _mm512_cvtepi32_ps(scaled), of_scales);
            of_mins                = _mm512_fmadd_ps(of_input, _mm512_cvtepi32_ps(least), of_mins);
        }
        const __m512 scale     = _mm512_set1_ps(_cvtsh_ss(block->scale));
        const __m512 min_scale = _mm512_set1_ps(_cvtsh_ss(block->min_scale));
        sums[0] = _mm512_add_ps(sums[0], _mm512_fmsub_ps(scale, of_scales, _mm512_mul_ps(min_scale, of_mins)));
    }
};

} // namespace

const MmvqKernel * mmvq_q4_k_avx512() { return mmvq_kernel_of<Rows<Q4KBlock>>(); }
const MmvqKernel * mmvq_q5_k_avx512() { return mmvq_kernel_of<Rows<Q5KBlock>>(); }

#else

const MmvqKernel * mmvq_q4_k_avx512() { return nullptr; }
const MmvqKernel * mmvq_q5_k_avx512() { return nullptr; }

#endif

} // namespace hobbit::kernels
