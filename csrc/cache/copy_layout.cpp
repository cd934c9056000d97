#include "cache/copy_layout.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace hobbit {

namespace {

// Room for the aligned range around a matrix, wherever in its first aligned block it starts.
uint64_t region_bytes(uint64_t n_bytes, uint64_t align) { return align_up(n_bytes, align) + align; }

struct ClassShape {
    Precision             precision     = Precision::hi;
    uint64_t              slot_multiple = 1;
    std::vector<uint64_t> regions;

    bool operator==(const ClassShape & o) const {
        return precision == o.precision && slot_multiple == o.slot_multiple && regions == o.regions;
    }
};

uint64_t total_bytes(const SizeClass & size_class) { return size_class.n_copies * size_class.slot_bytes; }

PartLayout drive_part(const CopySpec::Part & part, uint64_t region_offset, uint64_t align) {
    PartLayout p;
    // Experts lie back to back: only a multiple of the alignment keeps the tensor's offset for all of them.
    p.congruent     = part.n_bytes % align == 0;
    p.region_offset = region_offset;
    p.data_offset   = region_offset + (p.congruent ? part.tensor_offset % align : 0);
    p.n_bytes       = part.n_bytes;
    return p;
}

PartLayout device_part(const CopySpec::Part & part, uint64_t region_offset, uint64_t) {
    PartLayout p;
    p.region_offset = p.data_offset = region_offset;
    p.n_bytes                       = part.n_bytes;
    return p;
}

CopyLayouts make_layouts(const std::vector<CopySpec> & specs, uint64_t align,
                         PartLayout (*place)(const CopySpec::Part &, uint64_t, uint64_t),
                         uint64_t (*region)(const CopySpec::Part &, uint64_t)) {
    assert(align > 0 && (align & (align - 1)) == 0);
    CopyLayouts             out;
    std::vector<ClassShape> shapes; // [class]
    for (const CopySpec & spec : specs) {
        if (spec.n_expert == 0) {
            continue;
        }
        assert(!spec.parts.empty() && spec.parts.size() <= max_parts);
        CopyLayout layout;
        ClassShape shape;
        uint64_t   slot_bytes = 0;
        layout.n_expert       = spec.n_expert;
        shape.precision       = spec.precision;
        shape.slot_multiple   = std::lcm(spec.slot_multiple, align);
        for (const CopySpec::Part & part : spec.parts) {
            layout.parts.push_back(place(part, slot_bytes, align));
            shape.regions.push_back(region(part, align));
            slot_bytes += shape.regions.back();
        }

        const auto   found     = std::find(shapes.begin(), shapes.end(), shape);
        const size_t class_idx = static_cast<size_t>(found - shapes.begin());
        if (found == shapes.end()) {
            shapes.push_back(shape);
            SizeClass size_class;
            size_class.precision  = spec.precision;
            size_class.slot_bytes = (slot_bytes + shape.slot_multiple - 1) / shape.slot_multiple * shape.slot_multiple;
            out.classes.push_back(size_class);
        }
        SizeClass & size_class = out.classes[class_idx];
        layout.first_idx       = static_cast<uint32_t>(size_class.n_copies);
        size_class.n_copies += spec.n_expert;
        size_class.max_n_used = std::max(size_class.max_n_used, spec.n_used);
        layout.class_idx      = static_cast<uint32_t>(class_idx);

        auto & layouts = out.layouts[static_cast<int>(spec.precision)];
        if (layouts.size() <= spec.layer_idx) {
            layouts.resize(spec.layer_idx + size_t{1});
        }
        assert(layouts[spec.layer_idx].n_expert == 0);
        layouts[spec.layer_idx] = std::move(layout);
    }
    return out;
}

} // namespace

CopyLayouts make_copy_layouts(const std::vector<CopySpec> & specs, uint64_t align) {
    return make_layouts(specs, align, drive_part,
                        [](const CopySpec::Part & part, uint64_t a) { return region_bytes(part.n_bytes, a); });
}

CopyLayouts make_device_layouts(const std::vector<CopySpec> & specs, uint64_t align) {
    return make_layouts(specs, align, device_part, [](const CopySpec::Part & part, uint64_t a) {
        return align_up(std::max(part.device_bytes, part.n_bytes), a);
    });
}

uint64_t largest_part_bytes(const CopyLayouts & layouts) {
    uint64_t n_bytes = 0;
    for (const auto & of_precision : layouts.layouts) {
        for (const CopyLayout & layout : of_precision) {
            for (const PartLayout & part : layout.parts) {
                n_bytes = std::max(n_bytes, part.n_bytes);
            }
        }
    }
    return n_bytes;
}

std::vector<uint32_t> split_budget(const std::vector<SizeClass> & classes, uint64_t budget_bytes, double lo_share) {
    uint64_t all_bytes[n_precisions] = {};
    for (const SizeClass & size_class : classes) {
        all_bytes[static_cast<int>(size_class.precision)] += total_bytes(size_class);
    }
    // What one precision cannot use goes to the other, so that no grant exceeds what its classes would take and
    // the proportional shares below need no cap of their own.
    const uint64_t hi_all = all_bytes[static_cast<int>(Precision::hi)];
    const uint64_t lo_all = all_bytes[static_cast<int>(Precision::lo)];
    const double   share  = std::min(std::max(lo_share, 0.0), 1.0);
    const double   wanted = static_cast<double>(budget_bytes) * share;
    uint64_t       lo     = wanted < static_cast<double>(lo_all) ? static_cast<uint64_t>(wanted) : lo_all;
    lo                    = std::min(lo, budget_bytes); // a product of doubles may round up
    const uint64_t hi     = std::min(budget_bytes - lo, hi_all);
    lo                    = std::min(budget_bytes - hi, lo_all);

    const uint64_t        grants[n_precisions] = {hi, lo};
    std::vector<uint32_t> n_slots(classes.size(), 0);
    uint64_t              n_left = budget_bytes;
    for (size_t i = 0; i < classes.size(); i++) {
        const SizeClass & c = classes[i];
        if (c.n_copies == 0) {
            continue;
        }
        const int      group = static_cast<int>(c.precision);
        const double   ratio = static_cast<double>(grants[group]) / static_cast<double>(all_bytes[group]);
        const uint64_t n     = std::min(
            {static_cast<uint64_t>(static_cast<double>(c.n_copies) * ratio), c.n_copies, n_left / c.slot_bytes});
        n_slots[i] = static_cast<uint32_t>(n);
        n_left -= n * c.slot_bytes;
    }

    // What rounding left over.
    for (bool granted = true; granted;) {
        granted = false;
        for (size_t i = 0; i < classes.size(); i++) {
            if (n_slots[i] < classes[i].n_copies && classes[i].slot_bytes <= n_left) {
                n_slots[i]++;
                n_left -= classes[i].slot_bytes;
                granted = true;
            }
        }
    }
    return n_slots;
}

} // namespace hobbit
