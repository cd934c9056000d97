// How the copies of experts lie in memory: slots of a few sizes, each with a region for every matrix.
#pragma once

#include "base/types.h"

#include <cstdint>
#include <vector>

namespace hobbit {

// One matrix of an expert inside a slot. Its data starts at the same offset modulo the drive's alignment as in the
// file, so that a direct read needs no copy; the region leaves room for the aligned range around it.
struct PartLayout {
    uint64_t region_offset = 0;
    uint64_t data_offset   = 0; // within the slot; region_offset <= data_offset
    uint64_t n_bytes       = 0;
    bool     congruent     = false; // every expert's extent has this tensor's offset modulo the alignment
};

// A layer's copies in one precision: all its experts have the same layout.
struct CopyLayout {
    uint32_t                class_idx = 0;
    uint32_t                n_expert  = 0; // 0: this layer has no experts in this precision
    uint32_t                first_idx = 0; // of its copies among those of the class
    std::vector<PartLayout> parts;

    uint64_t n_bytes() const { // of a copy's data, without padding
        uint64_t n = 0;
        for (const PartLayout & part : parts) {
            n += part.n_bytes;
        }
        return n;
    }
};

// The slots of all of a layer's experts in one precision, consecutive and in order, where these are there to stay.
struct HeldSlots {
    int32_t   first_idx = -1; // -1: there are none
    Precision precision = Precision::hi;

    explicit operator bool() const { return first_idx >= 0; }
};

// Slots of one size. Layers with equal region sizes share a class, hence compete for its slots.
struct SizeClass {
    Precision precision  = Precision::hi;
    uint64_t  slot_bytes = 0; // a multiple of the alignment
    uint64_t  n_copies   = 0; // experts that live in this class, over all layers
    uint32_t  max_n_used = 0; // most experts one token uses of a layer in this class
};

// What the layout needs to know of a layer's experts.
struct CopySpec {
    uint16_t  layer_idx = 0;
    Precision precision = Precision::hi;
    uint32_t  n_expert  = 0;
    uint32_t  n_used    = 0;
    struct Part {
        uint64_t tensor_offset = 0; // in its file
        uint64_t n_bytes       = 0; // of one expert
        uint64_t device_bytes  = 0; // what a device wants allocated for it, padding included
    };
    std::vector<Part> parts;
    uint64_t slot_multiple = 1; // slots are a multiple of this apart too: GPU kernels count in blocks of a type
};

struct CopyLayouts {
    std::vector<SizeClass>  classes;
    std::vector<CopyLayout> layouts[n_precisions]; // [precision][layer_idx]

    const CopyLayout & of(ExpertKey key) const { return layouts[static_cast<int>(key.precision)][key.layer_idx]; }
    bool               has(uint16_t layer_idx, Precision precision) const {
        const auto & v = layouts[static_cast<int>(precision)];
        return layer_idx < v.size() && v[layer_idx].n_expert > 0;
    }
};

// `align` is the drive's alignment, a power of two.
CopyLayouts make_copy_layouts(const std::vector<CopySpec> & specs, uint64_t align);

// The same for slots on a device that is written by copies: each matrix at a multiple of `align`, with the room it asks
// for (CopySpec::Part::device_bytes). Classes differ from those of make_copy_layouts().
CopyLayouts make_device_layouts(const std::vector<CopySpec> & specs, uint64_t align);

// Bytes of the largest matrix of any copy.
uint64_t largest_part_bytes(const CopyLayouts & layouts);

// Splits `budget_bytes` over the classes: first `lo_share` of it to the lo classes together (0 if there are none), then
// in proportion to what all copies of a class would take, never more slots than copies. [n_classes] slots.
std::vector<uint32_t> split_budget(const std::vector<SizeClass> & classes, uint64_t budget_bytes, double lo_share);

} // namespace hobbit
