// Where the experts of a step lie, for the device that multiplies by them.
#pragma once

#include "cache/copy_layout.h"
#include "cache/expert_cache.h"
#include "ggml-backend.h"

#include <cstddef>
#include <cstdint>

namespace hobbit {

// Weights in memory of one ggml buffer type.
struct WeightArea {
    ggml_backend_buffer_t buffer = nullptr;
    std::byte *           data   = nullptr;
};

struct BufferRow {
    WeightArea area;
    uint64_t   stride    = 0;
    uint32_t   n_buffers = 0;
};

// Experts are numbered as in LayerStep::keys().
class ExpertWeights {
  public:
    virtual ~ExpertWeights() = default;

    virtual ExpertKey key(uint32_t key_idx) const = 0;
    // None: the expert has no slot in this memory, its matrices lie alone.
    virtual SlotRef slot(uint32_t key_idx) const = 0;
    // A matrix of an expert without a slot. REQUIRES: it is there.
    virtual WeightArea part(uint32_t key_idx, uint32_t part_idx) const = 0;
    // Where matrices without a slot lie in buffers at equal distances: those, and in which one this matrix is.
    virtual BufferRow buffers(uint32_t /*key_idx*/, uint32_t /*part_idx*/) const { return {}; }
    virtual int32_t   buffer(uint32_t /*key_idx*/, uint32_t /*part_idx*/) const { return -1; }
    // Up to how many bytes of a matrix one product over all slots or buffers is better than one for each, however many
    // rows there are.
    virtual uint64_t max_bytes_together() const { return 0; }

    virtual const CopyLayouts & layouts() const                  = 0;
    virtual uint32_t            n_slots(int32_t class_idx) const = 0; // spare ones included
    virtual WeightArea          slots(int32_t class_idx) const   = 0; // all of a class, back to back
};

} // namespace hobbit
