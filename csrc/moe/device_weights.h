// Experts on a device with memory of its own: in its slots, or for one use in the ring.
#pragma once

#include "moe/device_arena.h"
#include "moe/expert_weights.h"
#include "tier/device_tier.h"

#include <utility>
#include <vector>

namespace hobbit {

class DeviceWeights final : public ExpertWeights {
  public:
    DeviceWeights(const DeviceTier & tier, const DeviceArena & arena, const std::vector<ExpertKey> & keys,
                  const TierStep * step)
        : tier_(tier), arena_(arena), keys_(keys), step_(step) {}

    // The buffers in which the part that is multiplied by next lies, [key]; -1: none.
    void set_buffers(const std::vector<int32_t> & buffers) { buffers_ = &buffers; }

    ExpertKey  key(uint32_t key_idx) const override { return keys_[key_idx]; }
    SlotRef    slot(uint32_t key_idx) const override { return step_->slot(key_idx); }
    WeightArea part(uint32_t key_idx, uint32_t part_idx) const override {
        const OneUseBuffers one_use = tier_.one_use(keys_[key_idx], part_idx);
        WeightArea          area    = arena_.area(one_use.area_idx);
        area.data += one_use.offset((*buffers_)[key_idx]);
        return area;
    }
    BufferRow buffers(uint32_t key_idx, uint32_t part_idx) const override {
        const OneUseBuffers one_use = tier_.one_use(keys_[key_idx], part_idx);
        WeightArea          area    = arena_.area(one_use.area_idx);
        area.data += one_use.first_offset;
        return {area, one_use.stride, one_use.n};
    }
    int32_t buffer(uint32_t key_idx, uint32_t part_idx) const override {
        return (*buffers_)[key_idx] - static_cast<int32_t>(tier_.one_use(keys_[key_idx], part_idx).first_idx);
    }
    // The slot that a matrix was copied into for one use; -1: none, or it lies in the ring.
    int32_t spare_slot(uint32_t key_idx, uint32_t part_idx) const {
        if (tier_.shape().has_ring() || (*buffers_)[key_idx] < 0) {
            return -1;
        }
        const uint32_t class_idx = layouts().of(keys_[key_idx]).class_idx;
        return static_cast<int32_t>(tier_.shape().n_slots[class_idx]) + buffer(key_idx, part_idx);
    }
    // A GPU begins three or four kernels for a product, which takes longer than to multiply by a small matrix. Its
    // kernel for many experts divides its multiprocessors between all slots, whether they are used or not, which wastes
    // most of them where matrices are large.
    uint64_t            max_bytes_together() const override { return small_matrix_bytes; }
    const CopyLayouts & layouts() const override { return tier_.layouts(); }
    uint32_t            n_slots(int32_t class_idx) const override {
        const auto i = static_cast<size_t>(class_idx);
        return tier_.shape().n_slots[i] + tier_.shape().n_spare[i];
    }
    WeightArea slots(int32_t class_idx) const override { return arena_.area(static_cast<uint32_t>(class_idx)); }

  private:
    const DeviceTier &             tier_;
    const DeviceArena &            arena_;
    const std::vector<ExpertKey> & keys_;
    const TierStep *               step_;
    const std::vector<int32_t> *   buffers_ = nullptr;
};

} // namespace hobbit
