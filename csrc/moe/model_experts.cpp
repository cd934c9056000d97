#include "moe/model_experts.h"

#include "moe/device_arena.h"
#include "moe/importance.h"
#include "tier/device_tier.h"

#include <cstddef>
#include <utility>

namespace hobbit {

namespace {

alignas(64) std::byte buffer_anchor[64];

} // namespace

ModelExperts::ModelExperts() : host_buffer(ggml_backend_cpu_buffer_from_ptr(buffer_anchor, sizeof(buffer_anchor))) {}
ModelExperts::~ModelExperts() = default;

bool ModelExperts::holds_layer(uint16_t layer_idx, WeightArea * first) const {
    if (is_recorded() || !(tier != nullptr ? tier->fixed_slot(layer_idx) >= 0 : loader->holds_all())) {
        return false;
    }
    if (first != nullptr) {
        const CopyLayouts & where  = tier != nullptr ? tier->layouts() : *layouts;
        const CopyLayout &  layout = where.of({layer_idx, 0, Precision::hi});
        const int32_t slot_idx = tier != nullptr ? tier->fixed_slot(layer_idx) : static_cast<int32_t>(layout.first_idx);
        *first = tier != nullptr
                     ? device_arena->area(layout.class_idx)
                     // ggml has no tensors of const data
                     : WeightArea{host_buffer.get(),
                                  const_cast<std::byte *>(loader->arena(static_cast<int32_t>(layout.class_idx)))};
        first->data += static_cast<uint64_t>(slot_idx) * where.classes[layout.class_idx].slot_bytes;
    }
    return true;
}

void ModelExperts::set_error(const Status & error) {
    MutexLock lock(mu_);
    if (error_.ok()) {
        error_ = error;
    }
}

Status ModelExperts::take_error() {
    MutexLock lock(mu_);
    return std::exchange(error_, Status());
}

} // namespace hobbit
