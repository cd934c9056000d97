// Experts on a device with memory of its own: in its slots, or for one use in the ring.
#pragma once

#include "moe/device_arena.h"
#include "moe/expert_weights.h"
#include "tier/device_tier.h"

#include <utility>
#include <vector>

namespace hobbit {

// A GPU begins three or four kernels for a product, which takes longer than to multiply by a small matrix. Its kernel
// for many experts divides its multiprocessors between all slots, whether they are used or not, which wastes most of
// them where matrices are large.
inline constexpr uint64_t max_small_bytes = 8 << 20;

class DeviceWeights final : public ExpertWeights {
  public:
    DeviceWeights(const DeviceTier & tier, const DeviceArena & arena, const std::vector<ExpertKey> & keys,
                  const TierStep * step)
        : tier_(tier), arena_(arena), keys_(keys), step_(step) {}

    // The ring's buffers in which the part that is multiplied by next lies, [key]; -1: none.
    void set_buffers(const std::vector<int32_t> & buffers) { buffers_ = &buffers; }

    ExpertKey  key(uint32_t key_idx) const override { return keys_[key_idx]; }
    SlotRef    slot(uint32_t key_idx) const override { return step_->slot(key_idx); }
    WeightArea part(uint32_t key_idx, uint32_t) const override {
        WeightArea area = arena_.area(tier_.shape().ring_area());
        area.data += step_->offset((*buffers_)[key_idx]);
        return area;
    }
    BufferRow buffers() const override {
        return {arena_.area(tier_.shape().ring_area()), tier_.shape().buffer_bytes, tier_.shape().n_buffers};
    }
    int32_t             buffer(uint32_t key_idx) const override { return (*buffers_)[key_idx]; }
    uint64_t            max_bytes_together() const override { return max_small_bytes; }
    const CopyLayouts & layouts() const override { return tier_.layouts(); }
    uint32_t n_slots(int32_t class_idx) const override { return tier_.shape().n_slots[static_cast<size_t>(class_idx)]; }
    WeightArea slots(int32_t class_idx) const override { return arena_.area(static_cast<uint32_t>(class_idx)); }

  private:
    const DeviceTier &             tier_;
    const DeviceArena &            arena_;
    const std::vector<ExpertKey> & keys_;
    const TierStep *               step_;
    const std::vector<int32_t> *   buffers_ = nullptr;
};

} // namespace hobbit
