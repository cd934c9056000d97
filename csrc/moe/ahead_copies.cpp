#include "moe/ahead_copies.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace hobbit {

namespace {

// Few of a batch's tokens are many, with two of eight experts each: with four rows for each expert on average one in
// fifty gets none.
constexpr uint64_t min_rows_for_each = 4;

// The next layer that has experts, or the number of layers.
uint16_t next_layer(const ModelExperts & model, uint16_t layer_idx) {
    do {
        layer_idx++;
    } while (layer_idx < model.layers.size() && model.layers[layer_idx].n_expert == 0);
    return layer_idx;
}

} // namespace

bool AheadCopies::pays(const LayerView & view) {
    const uint64_t n_rows = static_cast<uint64_t>(view.n_used()) * view.n_tokens();
    return n_rows >= min_rows_for_each * view.model->layers[view.layer_idx].n_expert;
}

void AheadCopies::plan(const LayerView & view) {
    is_planned_                = true;
    const ModelExperts & model = *view.model;
    const uint16_t       next  = next_layer(model, view.layer_idx);
    if (next == model.layers.size() || model.tier->fixed_slot(next) >= 0 ||
        model.layouts->of({next, 0, Precision::hi}).parts.size() != view.part_order.size()) {
        return;
    }
    const uint32_t       n_expert = model.layers[next].n_expert;
    std::vector<int32_t> expert_idxs(n_expert);
    std::iota(expert_idxs.begin(), expert_idxs.end(), 0);
    std::vector<Resident> resident(n_expert);
    model.tier->find_resident(next, expert_idxs.data(), n_expert, resident.data());
    std::vector<ExpertKey> keys;
    for (uint16_t i = 0; i < n_expert; i++) {
        if (resident[i] != Resident::hi) {
            keys.push_back({next, i, Precision::hi});
        }
    }
    load_ = model.loader->pin_resident(keys);
    ring_ = model.tier->begin({});
    for (const uint32_t part_idx : view.part_order) {
        for (uint32_t i = 0; i < load_->leases().size(); i++) {
            copies_.push_back({i, part_idx});
        }
    }
}

void AheadCopies::pump(const LayerView & view) {
    if (!is_planned_) {
        plan(view);
    }
    for (; next_copy_ < copies_.size(); next_copy_++) {
        Copy &             copy = copies_[next_copy_];
        const ExpertKey    key  = load_->leases()[copy.lease_idx].key;
        const PartLayout & part = view.model->layouts->of(key).parts[copy.part_idx];
        copy.buffer_idx         = ring_->begin_copy(load_->data(copy.lease_idx, copy.part_idx), part.n_bytes, false);
        if (copy.buffer_idx < 0) {
            return; // no buffer is free
        }
    }
}

int32_t AheadCopies::take(ExpertKey key, uint32_t part_idx, TierStep & step) {
    for (size_t i = 0; i < next_copy_; i++) {
        Copy & copy = copies_[i];
        if (copy.buffer_idx >= 0 && copy.part_idx == part_idx && load_->leases()[copy.lease_idx].key == key) {
            step.adopt(*ring_, copy.buffer_idx);
            return std::exchange(copy.buffer_idx, -1);
        }
    }
    return -1;
}

void AheadCopies::drop() {
    ring_.reset();
    load_.reset();
    copies_.clear();
    next_copy_  = 0;
    is_planned_ = false;
}

} // namespace hobbit
