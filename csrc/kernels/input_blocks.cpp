#include "kernels/avx512.h"

#if defined(__x86_64__)

#    include <cstring>

namespace hobbit::kernels {

bool has_avx512_vnni() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

namespace {

// The first of those furthest from zero, with its sign, as ggml scales by it.
HOBBIT_AVX512_VNNI float furthest_from_zero(const float * inputs) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < block_weights; i += 16) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(inputs + i)));
    }
    const __m512 wanted = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int64_t i = 0; i < block_weights; i += 16) {
        const __mmask16 found = _mm512_cmpeq_ps_mask(_mm512_abs_ps(_mm512_loadu_ps(inputs + i)), wanted);
        if (found != 0) {
            return inputs[i + __builtin_ctz(found)];
        }
    }
    return 0;
}

HOBBIT_AVX512_VNNI void quantize_block(const float * inputs, InputBlock & block) {
    const float furthest = furthest_from_zero(inputs);
    if (furthest == 0) {
        std::memset(&block, 0, sizeof(block));
        return;
    }
    const float  scale  = -127.0F / furthest;
    const __m512 scales = _mm512_set1_ps(scale);
    for (int group = 0; group < 16; ++group) {
        const __m512  scaled = _mm512_mul_ps(scales, _mm512_loadu_ps(inputs + 16 * group));
        const __m512i quants = _mm512_cvtps_epi32(scaled); // ties to even
        _mm_store_si128(reinterpret_cast<__m128i *>(block.quants[group / 2 % 4] + 32 * (group / 8) + 16 * (group % 2)),
                        _mm512_cvtsepi32_epi8(quants));
        block.sums[group] = static_cast<int16_t>(_mm512_reduce_add_epi32(quants));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512i times_4 =
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(4), _mm512_load_si512(block.quants[i]));
        _mm512_store_si512(block.minus_4_sums[i], _mm512_sub_epi32(_mm512_setzero_si512(), times_4));
    }
    block.scale = 1 / scale;
}

} // namespace

HOBBIT_AVX512_VNNI void quantize_inputs(const float * inputs, int64_t n_in, InputBlock * blocks) {
    for (int64_t i = 0; i < n_in / block_weights; ++i) {
        quantize_block(inputs + i * block_weights, blocks[i]);
    }
}

} // namespace hobbit::kernels

#endif
