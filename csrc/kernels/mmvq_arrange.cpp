#include "kernels/mmvq_blocks.h"

#include <cstring>

namespace hobbit::kernels {

void arrange_for_q8_0(const void * blocks, int64_t n_in, void * inputs) {
    constexpr int64_t n_weights = Q8_0Inputs::n_blocks * q8_0_weights;
    const auto *      block     = static_cast<const Q8_0Block *>(blocks);
    auto *            input     = static_cast<Q8_0Inputs *>(inputs);
    for (int64_t first = 0; first < n_in; first += n_weights, ++input) {
        for (int64_t i = 0; i < Q8_0Inputs::n_blocks; ++i, ++block) {
            input->scales[i] = half_to_float(block->scale);
            std::memcpy(input->quants + i * q8_0_weights, block->quants, sizeof(block->quants));
        }
        for (int64_t i = 0; i < 16; ++i) {
            int32_t sum = 0;
            for (int64_t j = 0; j < 8; ++j) {
                sum += input->quants[i * 8 + j];
            }
            input->minus_128_sums[i] = -128 * sum;
        }
    }
}

void arrange_for_q4_k(const void * blocks, int64_t n_in, void * inputs) {
    const auto * block = static_cast<const Q8_0Block *>(blocks);
    auto *       input = static_cast<Q4KInputs *>(inputs);
    for (int64_t first = 0; first < n_in; first += k_weights, ++input, block += k_weights / q8_0_weights) {
        for (int64_t i = 0; i < 2; ++i) {
            for (int64_t thread = 0; thread < 16; ++thread) {
                const Q8_0Block & group = block[2 * (thread / 4) + i];
                int32_t           sum   = 0;
                for (int64_t half = 0; half < 2; ++half) {
                    const int8_t * quants = group.quants + 16 * half + 4 * (thread % 4);
                    std::memcpy(input->quants[i][half] + 4 * thread, quants, 4);
                    sum += quants[0] + quants[1] + quants[2] + quants[3];
                }
                input->sums[i][thread]   = sum;
                input->scales[i][thread] = half_to_float(group.scale);
            }
        }
    }
}

void arrange_for_q6_k(const void * blocks, int64_t n_in, void * inputs) {
    const auto * block = static_cast<const Q8_0Block *>(blocks);
    auto *       input = static_cast<Q6KInputs *>(inputs);
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

} // namespace hobbit::kernels
