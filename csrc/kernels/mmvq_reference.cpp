#include "kernels/mmvq_blocks.h"

#include <cmath>
#include <cstring>

namespace hobbit::kernels {

namespace {

constexpr int64_t n_warps           = 4;
constexpr int64_t warp_size         = 32;
constexpr int64_t threads_per_block = 4; // of 32 weights
constexpr int64_t quants_per_thread = q8_0_weights / threads_per_block;

float sum_of_thread(int64_t thread_idx, const Q8_0Block * row, int64_t n_blocks, const MmvqInput * inputs) {
    const int64_t first = thread_idx % threads_per_block * quants_per_thread;
    float         sum   = 0;
    for (int64_t i = thread_idx / threads_per_block; i < n_blocks; i += n_warps * warp_size / threads_per_block) {
        const MmvqInput & input = inputs[i / blocks_per_input];
        const int64_t     at    = i % blocks_per_input;
        int32_t           dot   = 0;
        for (int64_t j = first; j < first + quants_per_thread; ++j) {
            dot += row[i].quants[j] * input.quants[at * q8_0_weights + j];
        }
        sum = std::fma(half_to_float(row[i].scale) * input.scales[at], static_cast<float>(dot), sum);
    }
    return sum;
}

float multiply_row(const Q8_0Block * row, int64_t n_blocks, const MmvqInput * inputs) {
    float lanes[warp_size];
    for (int64_t lane = 0; lane < warp_size; ++lane) {
        lanes[lane] = sum_of_thread(lane, row, n_blocks, inputs);
        for (int64_t warp = 1; warp < n_warps; ++warp) {
            lanes[lane] += sum_of_thread(warp * warp_size + lane, row, n_blocks, inputs);
        }
    }
    for (int64_t distance = warp_size / 2; distance > 0; distance /= 2) {
        for (int64_t lane = 0; lane < distance; ++lane) { // both of a pair get the same sum
            lanes[lane] += lanes[lane + distance];
        }
    }
    return lanes[0];
}

void multiply(const void * weights, int64_t n_in, int64_t n_rows, const MmvqInput * inputs, float * outputs) {
    const auto *  row      = static_cast<const Q8_0Block *>(weights);
    const int64_t n_blocks = n_in / q8_0_weights;
    for (int64_t i = 0; i < n_rows; ++i, row += n_blocks) {
        outputs[i] = multiply_row(row, n_blocks, inputs);
    }
}

} // namespace

float half_to_float(uint16_t half) {
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;
    const float    sign     = (half & 0x8000u) != 0 ? -1.0F : 1.0F;
    if (exponent == 0) {
        return sign * std::ldexp(static_cast<float>(mantissa), -24);
    }
    if (exponent == 0x1f) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    return sign * std::ldexp(static_cast<float>(mantissa | 0x400u), static_cast<int>(exponent) - 25);
}

void arrange_q8_0(const void * blocks, int64_t n_in, MmvqInput * inputs) {
    const auto * block = static_cast<const Q8_0Block *>(blocks);
    for (MmvqInput * input = inputs; input != inputs + n_in / MmvqKernel::input_weights; ++input) {
        for (int64_t i = 0; i < blocks_per_input; ++i, ++block) {
            input->scales[i] = half_to_float(block->scale);
            std::memcpy(input->quants + i * q8_0_weights, block->quants, sizeof(block->quants));
        }
        for (int64_t i = 0; i < MmvqKernel::input_weights / quants_per_thread; ++i) {
            int32_t sum = 0;
            for (int64_t j = 0; j < quants_per_thread; ++j) {
                sum += input->quants[i * quants_per_thread + j];
            }
            input->minus_128_sums[i] = -128 * sum;
        }
    }
}

const MmvqKernel & mmvq_q8_0_reference() {
    static const MmvqKernel kernel = {sizeof(Q8_0Block), arrange_q8_0, multiply};
    return kernel;
}

} // namespace hobbit::kernels
