// What the kernels of mmvq.h share: blocks as ggml stores them.
#pragma once

#include "kernels/mmvq.h"

#include <cstring>

namespace hobbit::kernels {

constexpr int64_t q8_0_weights = 32;
constexpr int64_t k_weights    = 256;

struct Q8_0Block {
    uint16_t scale; // half precision
    int8_t   quants[q8_0_weights];
};
static_assert(sizeof(Q8_0Block) == 34);

// weight = scale * group scale * quant - min_scale * group min, groups of 32.
struct Q4KBlock {
    uint16_t scale;
    uint16_t min_scale;
    uint8_t  group_scales[12]; // and mins, of six bits
    uint8_t  quants[128];      // of four bits: bytes 32 i .. 32 i + 31 hold groups 2 i and 2 i + 1
};
static_assert(sizeof(Q4KBlock) == 144);

// As Q4_K, with a fifth bit for each quant.
struct Q5KBlock {
    uint16_t scale;
    uint16_t min_scale;
    uint8_t  group_scales[12];
    uint8_t  upper[32]; // bit g of byte i: of quant i of group g
    uint8_t  quants[128];
};
static_assert(sizeof(Q5KBlock) == 176);

// Of eight groups of Q4_K or Q5_K, four to a word, the first in the lowest byte.
struct ScalesAndMins {
    uint32_t scales[2];
    uint32_t mins[2];
};

// As ggml packs them: the upper two bits of the last four lie above those of the first four.
inline ScalesAndMins unpack_scales_and_mins(const uint8_t (&group_scales)[12]) {
    uint32_t packed[3];
    std::memcpy(packed, group_scales, sizeof(packed));
    return {{packed[0] & 0x3f3f3f3f, (packed[2] & 0x0f0f0f0f) | ((packed[0] >> 6 & 0x03030303) << 4)},
            {packed[1] & 0x3f3f3f3f, (packed[2] >> 4 & 0x0f0f0f0f) | ((packed[1] >> 6 & 0x03030303) << 4)}};
}

// weight = scale * group scale * (quant - 32), groups of 16.
struct Q6KBlock {
    uint8_t  lower[128]; // four bits of each quant
    uint8_t  upper[64];  // two
    int8_t   group_scales[16];
    uint16_t scale;
};
static_assert(sizeof(Q6KBlock) == 210);

float half_to_float(uint16_t half);

// Four blocks of inputs, for kernels of Q8_0.
struct alignas(64) Q8_0Inputs {
    static constexpr int64_t n_blocks = 4;

    int8_t  quants[n_blocks * q8_0_weights];
    int32_t minus_128_sums[16]; // of each eight quants
    float   scales[n_blocks];
};
void arrange_for_q8_0(const void * blocks, int64_t n_in, void * inputs);

// A block of inputs, for kernels of Q4_K and Q5_K: where thread i of a block's sixteen wants it, of group 2 (i / 4) and
// of the one after that.
struct alignas(64) Q4KInputs {
    int8_t  quants[2][2][64]; // [group of two][half of the group]: four neighbours each
    int32_t sums[2][16];      // of the eight
    float   scales[2][16];
};
void arrange_for_q4_k(const void * blocks, int64_t n_in, void * inputs);

// A block of inputs, for kernels of Q6_K: groups 4 h + 2 i and 4 h + 2 i + 1 of 32 are what half h of a block's 32
// threads takes, four neighbours each.
struct alignas(64) Q6KInputs {
    int8_t  quants[2][2][64]; // [h][i]
    int32_t minus_32_sums[2][2][16];
    float   scales[2][2][16];
};
void arrange_for_q6_k(const void * blocks, int64_t n_in, void * inputs);

} // namespace hobbit::kernels
