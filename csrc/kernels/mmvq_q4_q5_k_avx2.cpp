// A block is sixteen threads, two vectors of two pairs of groups each.
#include "kernels/mmvq_avx2.h"

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

HOBBIT_AVX2 inline __m256i eight_of(const uint32_t (&words)[2]) {
    return _mm256_cvtepu8_epi32(_mm_set_epi32(0, 0, static_cast<int>(words[1]), static_cast<int>(words[0])));
}

HOBBIT_AVX2 inline __m256i upper_bits_of(const Q4KBlock *, int, int, int) { return _mm256_setzero_si256(); }

// Bit 4 of the quants of half a group, in two pairs of groups.
HOBBIT_AVX2 inline __m256i upper_bits_of(const Q5KBlock * block, int pair, int i, int half) {
    const __m256i bits  = _mm256_broadcastsi128_si256(load_128(block->upper + 16 * half));
    const __m256i first = _mm256_srlv_epi32(bits, by_four(2 * pair + i, 2 * pair + 2 + i));
    return _mm256_and_si256(_mm256_slli_epi16(first, 4), _mm256_set1_epi8(0x10));
}

template <typename WeightBlock> struct Rows {
    using Block                        = WeightBlock;
    using Inputs                       = Q4KInputs;
    static constexpr int64_t n_blocks  = 1;
    static constexpr int64_t n_weights = k_weights;
    static constexpr int64_t n_sums    = 2;
    static constexpr auto    arrange   = arrange_for_q4_k;

    HOBBIT_AVX2 static inline void add_blocks(__m256 * sums, const Block * block, const Inputs & input) {
        ask_for(block);
        const ScalesAndMins of_group  = unpack_scales_and_mins(block->group_scales);
        const __m256i       scales    = eight_of(of_group.scales);
        const __m256i       mins      = eight_of(of_group.mins);
        const __m256        scale     = _mm256_set1_ps(_cvtsh_ss(block->scale));
        const __m256        min_scale = _mm256_set1_ps(_cvtsh_ss(block->min_scale));

        for (int pair = 0; pair < 4; pair += 2) {
            const __m256i first     = load_256(block->quants + 32 * pair);
            const __m256i second    = load_256(block->quants + 32 * pair + 32);
            const __m256i halves[2] = {_mm256_permute2x128_si256(first, second, 0x20),
                                       _mm256_permute2x128_si256(first, second, 0x31)};

            __m256 of_scales = _mm256_setzero_ps(), of_mins = _mm256_setzero_ps();
            for (int i = 0; i < 2; ++i) {
                __m256i pairs = _mm256_setzero_si256(); // of two halves, which fit into 16 bits together
                for (int half = 0; half < 2; ++half) {
                    const __m256i lower  = _mm256_and_si256(i == 0 ? halves[half] : _mm256_srli_epi16(halves[half], 4),
                                                            _mm256_set1_epi8(0x0f));
                    const __m256i quants = _mm256_or_si256(lower, upper_bits_of(block, pair, i, half));
                    pairs                = _mm256_add_epi16(pairs, pairs_of(quants, input.quants[i][half] + 16 * pair));
                }
                const __m256i dots  = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                const __m256i group = by_four(2 * pair + i, 2 * pair + 2 + i);
                // Sums fit into 16 bits, and scales have no upper half.
                const __m256i scaled = _mm256_madd_epi16(dots, _mm256_permutevar8x32_epi32(scales, group));
                const __m256i least =
                    _mm256_madd_epi16(load_256(input.sums[i] + 4 * pair), _mm256_permutevar8x32_epi32(mins, group));
                const __m256 of_input = _mm256_load_ps(input.scales[i] + 4 * pair);
                of_scales             = _mm256_fmadd_ps(of_input, _mm256_cvtepi32_ps(scaled), of_scales);
                of_mins               = _mm256_fmadd_ps(of_input, _mm256_cvtepi32_ps(least), of_mins);
            }
            __m256 & sum = sums[pair / 2];
            sum          = _mm256_add_ps(sum, _mm256_fmsub_ps(scale, of_scales, _mm256_mul_ps(min_scale, of_mins)));
        }
    }
};

} // namespace

const MmvqKernel * mmvq_q4_k_avx2() { return mmvq_avx2_kernel_of<Rows<Q4KBlock>>(); }
const MmvqKernel * mmvq_q5_k_avx2() { return mmvq_avx2_kernel_of<Rows<Q5KBlock>>(); }

#else

const MmvqKernel * mmvq_q4_k_avx2() { return nullptr; }
const MmvqKernel * mmvq_q5_k_avx2() { return nullptr; }

#endif

} // namespace hobbit::kernels
