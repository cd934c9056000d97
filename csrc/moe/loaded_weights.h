// Experts in the host's memory, where the loader brought them.
#pragma once

#include "loader/loader.h"
#include "moe/expert_weights.h"
#include "moe/model_experts.h"

#include <vector>

namespace hobbit {

class LoadedWeights final : public ExpertWeights {
  public:
    // `lease_idxs` [key]: the lease that holds each key, -1 if none does; empty: key i has lease i. All are borrowed.
    LoadedWeights(const ModelExperts & model, const LoadStep & load, const std::vector<int32_t> & lease_idxs)
        : model_(model), load_(load), lease_idxs_(lease_idxs) {}

    ExpertKey  key(uint32_t key_idx) const override { return load_.leases()[lease_idx(key_idx)].key; }
    SlotRef    slot(uint32_t key_idx) const override { return load_.leases()[lease_idx(key_idx)].slot; }
    WeightArea part(uint32_t key_idx, uint32_t part_idx) const override {
        return area(load_.data(lease_idx(key_idx), part_idx));
    }
    const CopyLayouts & layouts() const override { return *model_.layouts; }
    uint32_t            n_slots(int32_t class_idx) const override { return model_.loader->n_slots(class_idx); }
    WeightArea          slots(int32_t class_idx) const override { return area(model_.loader->arena(class_idx)); }

  private:
    uint32_t lease_idx(uint32_t key_idx) const {
        return lease_idxs_.empty() ? key_idx : static_cast<uint32_t>(lease_idxs_[key_idx]);
    }
    WeightArea area(const std::byte * data) const { return model_.host_area(data); }

    const ModelExperts &         model_;
    const LoadStep &             load_;
    const std::vector<int32_t> & lease_idxs_;
};

} // namespace hobbit
