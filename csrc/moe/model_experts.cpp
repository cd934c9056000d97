#include "moe/model_experts.h"

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

HeldSlots ModelExperts::held(uint16_t layer_idx) const {
    if (is_recorded()) {
        return {};
    }
    if (tier != nullptr) {
        return tier->held(layer_idx);
    }
    if (!loader->holds_all()) {
        return {};
    }
    return {static_cast<int32_t>(layouts->of({layer_idx, 0, Precision::hi}).first_idx), Precision::hi};
}

bool ModelExperts::may_compute(uint16_t layer_idx, uint32_t part_idx, uint32_t n_tokens) const {
    return host_compute == HostCompute::any ||
           (host_compute == HostCompute::as_device && rounds_as_device(layer_idx, part_idx, n_tokens));
}

bool ModelExperts::rounds_as_device(uint16_t layer_idx, uint32_t part_idx, uint32_t n_tokens) const {
    const PartShape & shape = layers[layer_idx].parts[static_cast<int>(Precision::hi)][part_idx];
    return n_tokens == 1 && device_rounding.covers(shape.type, shape.n_in);
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
