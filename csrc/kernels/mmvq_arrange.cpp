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

} // namespace hobbit::kernels
