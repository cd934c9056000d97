// Where the missing experts of a layer are computed: on the device after a copy, or on the host where they lie.
//
// Pure. The two work at the same time, so a layer's misses are split between them such that the last of both is done
// as early as possible. The unit is a matrix: while the host multiplies by an expert's first matrices its last one is
// already on the way, which no split by expert or by layer can use.
#pragma once

#include "base/types.h"

#include <cstdint>
#include <vector>

namespace hobbit {

// Measured while tokens are computed; what they start with is a desktop's order of magnitude.
struct TierCosts {
    double copy_us_per_byte = 1.0 / 20e3; // host to device
    double copy_start_us    = 0;          // until what is under way has passed the link
    // One row times a matrix in main memory; the types of lo copies cost more a byte.
    double host_us_per_byte[n_precisions] = {1.0 / 40e3, 1.0 / 20e3};
    double host_start_us                  = 0;  // for its threads to begin and to meet, however little there is
    double host_sync_us                   = 30; // to bring a layer's rows to the host and back, once for each stage
};

// A host product with several rows reads the matrix once; beyond the first, a row costs this share of it. Measured on
// AVX-512 and AVX2 cores with Q8_0: 0.1 to 0.3.
inline constexpr double host_row_share = 0.2;

// The bytes that take the host as long with one row.
inline double effective_bytes(uint64_t n_bytes, uint32_t n_rows) {
    return static_cast<double>(n_bytes) * (1.0 + host_row_share * (n_rows > 0 ? n_rows - 1 : 0));
}

enum class Place : uint8_t { device, host };

// An expert that is not on the device.
struct MissingExpert {
    Precision precision   = Precision::hi;
    uint32_t  n_rows      = 1; // tokens of the batch that selected it
    uint64_t  first_bytes = 0; // of each of its first matrices (up, gate)
    uint32_t  n_first     = 2; // how many of them
    uint64_t  last_bytes  = 0; // of its last (down)
    uint32_t  n_there     = 0; // of all, in the order of use: copied already, or on their way
};

// Which matrices of a layer's experts the host may multiply by; the others are copied.
struct HostParts {
    bool first = true;
    bool last  = true;
};

struct StepPlan {
    // [expert][matrix in the order of use]; the last entry of each is the last matrix.
    std::vector<std::vector<Place>> places;
    double                          duration_us = 0; // expected
};

// The best split. Copies go in the order of use: first matrices of the experts, then last ones.
StepPlan plan_step(const std::vector<MissingExpert> & experts, const TierCosts & costs, HostParts host = {});

} // namespace hobbit
