// What the parts of an Engine take, or would take.
#include "engine/engine.h"
#include "policy/next_use.h"

#include <numeric>

namespace hobbit {

namespace {

uint64_t all_copies_bytes(const CopyLayouts & layouts, Precision precision) {
    uint64_t bytes = 0;
    for (const SizeClass & c : layouts.classes) {
        bytes += c.precision == precision ? c.slot_bytes * c.n_copies : 0;
    }
    return bytes;
}

} // namespace

uint64_t Engine::all_device_bytes(Precision precision) const { return all_copies_bytes(device_layouts_, precision); }

uint64_t Engine::device_bytes(const TierOptions & options) const {
    const TierShape shape = shape_tier(device_layouts_, device_part_bytes_, no_limit, options);
    return std::accumulate(shape.area_bytes.begin(), shape.area_bytes.end(), uint64_t{0});
}

uint64_t Engine::device_expert_bytes() const {
    uint64_t bytes = 0;
    for (size_t i = 0; tier_ != nullptr && i < tier_->shape().n_slots.size(); i++) {
        bytes += tier_->shape().area_bytes[i];
    }
    return bytes;
}

uint64_t Engine::gate_bank_bytes() const {
    if (experts_.prefetch.predictor != "stacked-gates" && experts_.prefetch.predictor != "hybrid") {
        return 0;
    }
    static const std::string suffix = ".ffn_gate_inp.weight";
    uint64_t                 bytes  = 0;
    for (const TensorInfo & t : model_.tensors()) {
        const bool is_router =
            t.name.size() > suffix.size() && t.name.compare(t.name.size() - suffix.size(), suffix.size(), suffix) == 0;
        bytes += is_router ? t.extent.n_bytes : 0;
    }
    return bytes;
}

uint64_t Engine::token_slot_bytes() const {
    uint64_t bytes = 0;
    for (const SizeClass & c : layouts_.classes) {
        bytes += c.precision == Precision::hi ? c.slot_bytes * c.max_n_used : 0;
    }
    return bytes;
}

uint64_t Engine::all_slots_bytes(Precision precision) const { return all_copies_bytes(layouts_, precision); }

uint64_t Engine::io_bytes(const LoaderOptions & options) const {
    return Loader::stream_ring_bytes(layouts_, reader_->alignment(), options.stream_bytes) +
           static_cast<uint64_t>(options_.n_io_threads) * (1 << 20) + gate_bank_bytes() +
           NextUse::n_bytes(experts_.predictor_model.n_expert); // of the policies, the one with the largest tables
}

} // namespace hobbit
