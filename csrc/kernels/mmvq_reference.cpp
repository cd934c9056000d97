// Thread by thread as on the device. Where that adds with one rounding, fma() is written out.
#include "kernels/mmvq_blocks.h"

#include <cmath>
#include <cstring>

namespace hobbit::kernels {

namespace {

constexpr int64_t n_warps   = 4;
constexpr int64_t warp_size = 32;

int32_t dot_of(const int8_t * a, const int8_t * b, int64_t n) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

// Each Block has a function that adds a block's products of one thread to that thread's sum. `inputs` begin with the
// block's.
struct Q8_0Rows {
    using Block                              = Q8_0Block;
    static constexpr int64_t n_weights       = q8_0_weights;
    static constexpr int64_t block_n_threads = 4; // eight quants each

    static float add(float sum, int64_t thread_idx, const Block & block, const Q8_0Block * inputs) {
        const int32_t dot = dot_of(block.quants + 8 * thread_idx, inputs->quants + 8 * thread_idx, 8);
        return std::fma(half_to_float(block.scale) * half_to_float(inputs->scale), static_cast<float>(dot), sum);
    }
};

int upper_bit_of(const Q4KBlock &, int64_t, int64_t) { return 0; }

int upper_bit_of(const Q5KBlock & block, int64_t group, int64_t at) { return (block.upper[at] >> group & 1) << 4; }

template <typename WeightBlock> struct Q4KRows { // and of Q5_K
    using Block                              = WeightBlock;
    static constexpr int64_t n_weights       = k_weights;
    static constexpr int64_t block_n_threads = 16; // four of each group of 32: two times four neighbours

    static float add(float sum, int64_t thread_idx, const Block & block, const Q8_0Block * inputs) {
        const int64_t pair      = thread_idx / 4;
        const int64_t first     = 4 * (thread_idx % 4);
        float         of_scales = 0, of_mins = 0;
        for (int64_t i = 0; i < 2; ++i) {
            const int64_t     group = 2 * pair + i;
            const Q8_0Block & input = inputs[group];
            int8_t            quants[8], ones[8];
            int8_t            values[8];
            for (int64_t j = 0; j < 8; ++j) {
                const int64_t at    = first + j % 4 + 16 * (j / 4);
                const int     lower = (block.quants[32 * pair + at] >> (4 * i)) & 15;
                quants[j]           = static_cast<int8_t>(lower | upper_bit_of(block, group, at));
                ones[j]             = 1;
                values[j]           = input.quants[at];
            }
            const uint8_t * s        = block.group_scales;
            const int32_t   scale    = group < 4 ? s[group] & 63 : (s[group + 4] & 15) | ((s[group - 4] >> 6) << 4);
            const int32_t   min      = group < 4 ? s[group + 4] & 63 : (s[group + 4] >> 4) | ((s[group] >> 6) << 4);
            const float     of_input = half_to_float(input.scale);
            of_scales = std::fma(of_input, static_cast<float>(dot_of(quants, values, 8) * scale), of_scales);
            of_mins   = std::fma(of_input, static_cast<float>(dot_of(ones, values, 8) * min), of_mins);
        }
        return sum + std::fma(half_to_float(block.scale), of_scales, -(half_to_float(block.min_scale) * of_mins));
    }
};

struct Q6KRows {
    using Block                              = Q6KBlock;
    static constexpr int64_t n_weights       = k_weights;
    static constexpr int64_t block_n_threads = 32; // four neighbours of two groups each

    static float add(float sum, int64_t thread_idx, const Block & block, const Q8_0Block * inputs) {
        const int64_t half = thread_idx / 16, in_half = thread_idx % 16;
        float         of_groups = 0;
        for (int64_t i = 0; i < 2; ++i) {
            int8_t quants[4];
            for (int64_t j = 0; j < 4; ++j) {
                const int lower = (block.lower[4 * thread_idx + j] >> (4 * i)) & 15;
                const int upper = (block.upper[32 * half + 4 * (in_half % 8) + j] >> (2 * (in_half / 8) + 4 * i)) & 3;
                quants[j]       = static_cast<int8_t>((lower | upper << 4) - 32);
            }
            const Q8_0Block & input = inputs[4 * half + in_half / 8 + 2 * i];
            const int32_t     dot   = dot_of(quants, input.quants + 4 * (in_half % 8), 4);
            const int32_t     scale = block.group_scales[8 * half + in_half / 4 + 4 * i];
            of_groups               = std::fma(half_to_float(input.scale), static_cast<float>(dot * scale), of_groups);
        }
        return std::fma(half_to_float(block.scale), of_groups, sum);
    }
};

template <typename Rows>
float sum_of_thread(int64_t thread_idx, const typename Rows::Block * row, int64_t n_blocks, const Q8_0Block * inputs) {
    float sum = 0;
    for (int64_t i = thread_idx / Rows::block_n_threads; i < n_blocks;
         i += n_warps * warp_size / Rows::block_n_threads) {
        sum = Rows::add(sum, thread_idx % Rows::block_n_threads, row[i], inputs + i * (Rows::n_weights / q8_0_weights));
    }
    return sum;
}

template <typename Rows>
void multiply(const void * weights, int64_t n_in, int64_t n_rows, const void * inputs, float * outputs) {
    const auto *  row      = static_cast<const typename Rows::Block *>(weights);
    const auto *  blocks   = static_cast<const Q8_0Block *>(inputs);
    const int64_t n_blocks = n_in / Rows::n_weights;
    for (int64_t i = 0; i < n_rows; ++i, row += n_blocks) {
        float lanes[warp_size];
        for (int64_t lane = 0; lane < warp_size; ++lane) {
            lanes[lane] = sum_of_thread<Rows>(lane, row, n_blocks, blocks);
            for (int64_t warp = 1; warp < n_warps; ++warp) {
                lanes[lane] += sum_of_thread<Rows>(warp * warp_size + lane, row, n_blocks, blocks);
            }
        }
        for (int64_t distance = warp_size / 2; distance > 0; distance /= 2) {
            for (int64_t lane = 0; lane < distance; ++lane) { // both of a pair get the same sum
                lanes[lane] += lanes[lane + distance];
            }
        }
        outputs[i] = lanes[0];
    }
}

template <typename Rows> void arrange(const void * blocks, int64_t n_in, void * inputs) { // as they are
    std::memcpy(inputs, blocks, static_cast<size_t>(n_in / q8_0_weights) * sizeof(Q8_0Block));
}

template <typename Rows>
constexpr MmvqKernel kernel = {sizeof(typename Rows::Block), Rows::n_weights,
                               Rows::n_weights / q8_0_weights * sizeof(Q8_0Block), arrange<Rows>, multiply<Rows>};

} // namespace

float half_to_float(uint16_t half) {
    const int   exponent = (half >> 10) & 0x1f;
    const int   mantissa = half & 0x3ff;
    const float sign     = (half & 0x8000) != 0 ? -1.0F : 1.0F;
    if (exponent == 0) {
        return sign * std::ldexp(static_cast<float>(mantissa), -24);
    }
    if (exponent == 0x1f) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    return sign * std::ldexp(static_cast<float>(mantissa | 0x400), exponent - 25);
}

const MmvqKernel & mmvq_q8_0_reference() { return kernel<Q8_0Rows>; }
const MmvqKernel & mmvq_q4_k_reference() { return kernel<Q4KRows<Q4KBlock>>; }
const MmvqKernel & mmvq_q5_k_reference() { return kernel<Q4KRows<Q5KBlock>>; }
const MmvqKernel & mmvq_q6_k_reference() { return kernel<Q6KRows>; }

} // namespace hobbit::kernels
