// A block is 32 threads, two vectors.
#include "kernels/mmvq_avx512.h"

#include <cstring>

namespace hobbit::kernels {

#if defined(__x86_64__)

namespace {

// Of a block: groups 4 h + 2 i and 4 h + 2 i + 1 of 32 are what half h of the threads takes, four neighbours each.
struct alignas(64) Inputs {
    int8_t  quants[2][2][64]; // [h][i]
    int32_t minus_32_sums[2][2][16];
    float   scales[2][2][16];
};

void arrange(const void * blocks, int64_t n_in, void * inputs) {
    const auto * block = static_cast<const Q8_0Block *>(blocks);
    auto *       input = static_cast<Inputs *>(inputs);
    for (int64_t first = 0; first < n_in; first += k_weights, ++input, block += k_weights / q8_0_weights) {
        for (int64_t group = 0; group < 8; ++group) {
            const int64_t half = group / 4, i = group % 4 / 2;
            for (int64_t j = 0; j < 8; ++j) {
                const int8_t * quants = block[group].quants + 4 * j;
                const int64_t  thread = group % 2 * 8 + j;
                std::memcpy(input->quants[half][i] + 4 * thread, quants, 4);
                input->minus_32_sums[half][i][thread] = -32 * (quants[0] + quants[1] + quants[2] + quants[3]);
                input->scales[half][i][thread]        = half_to_float(block[group].scale);
            }
        }
    }
}

struct Q6KRows {
    using Block                        = Q6KBlock;
    using Inputs                       = kernels::Inputs;
    static constexpr int64_t n_blocks  = 1;
    static constexpr int64_t n_weights = k_weights;
    static constexpr int64_t n_sums    = 2;
    static constexpr auto    arrange   = kernels::arrange;

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

const MmvqKernel * mmvq_q6_k_kernel() { return mmvq_kernel_of<Q6KRows>(); }

#else

const MmvqKernel * mmvq_q6_k_kernel() { return nullptr; }

#endif

} // namespace hobbit::kernels
