// Keys and units shared by every stage of the core.
#pragma once

#include <cstdint>

namespace hobbit {

// The two copies of an expert: `hi` is the user's model file, `lo` the smaller copy beside it.
enum class Precision : uint8_t { hi = 0, lo = 1 };
inline constexpr int n_precisions = 2;

// Which of an expert's weight matrices a part holds. `gate_up` is the fused form some models store.
enum class MatrixKind : uint8_t { gate, up, down, gate_up };

// Most matrices one expert can have (gate, up, down).
inline constexpr int max_parts = 3;

struct ExpertKey {
    uint16_t  layer_idx  = 0;
    uint16_t  expert_idx = 0;
    Precision precision  = Precision::hi;

    bool operator==(const ExpertKey & o) const {
        return layer_idx == o.layer_idx && expert_idx == o.expert_idx && precision == o.precision;
    }
    bool operator!=(const ExpertKey & o) const { return !(*this == o); }
};

// A run of bytes in one of the files of a model (split models have several).
struct FileExtent {
    uint32_t file_idx = 0;
    uint64_t offset   = 0;
    uint64_t n_bytes  = 0;
};

inline constexpr uint64_t align_up(uint64_t n, uint64_t align) { return (n + align - 1) / align * align; }
inline constexpr uint64_t align_down(uint64_t n, uint64_t align) { return n / align * align; }

} // namespace hobbit
