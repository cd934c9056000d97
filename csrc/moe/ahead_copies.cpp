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

void AheadCopies::plan_prompt(const LayerView & view) {
    is_planned_                = true;
    const ModelExperts & model = *view.model;
    const uint16_t       next  = next_layer(model, view.layer_idx);
    if (next == model.layers.size() || model.tier->held(next) ||
        model.layouts->of({next, 0, Precision::hi}).parts.size() != view.part_order.size()) {
        return;
    }
    const CopyLayouts & on_device = model.tier->layouts();
    if (target_ == Target::staging && on_device.of({next, 0, Precision::hi}).class_idx !=
                                          on_device.of({view.layer_idx, 0, Precision::hi}).class_idx) {
        return; // its places are in slots that may not have been borrowed yet
    }
    // A prompt is served in hi where there are slots for that, nearly.
    const bool      in_lo = !model.tier->has_slots(next, Precision::hi) && model.tier->has_slots(next, Precision::lo);
    const Precision precision = in_lo ? Precision::lo : Precision::hi;
    const uint32_t  n_expert  = model.layers[next].n_expert;
    std::vector<int32_t> expert_idxs(n_expert);
    std::iota(expert_idxs.begin(), expert_idxs.end(), 0);
    std::vector<Resident> resident(n_expert);
    model.tier->find_resident(next, expert_idxs.data(), n_expert, resident.data());
    std::vector<ExpertKey> keys;
    for (uint16_t i = 0; i < n_expert; i++) {
        if (resident[i] != (in_lo ? Resident::lo : Resident::hi)) {
            keys.push_back({next, i, precision});
        }
    }
    plan(view, keys);
}

void AheadCopies::plan(const LayerView & view, const std::vector<ExpertKey> & keys) {
    load_ = view.model->loader->pin_resident(keys);
    ring_ = view.model->tier->begin({});
    for (const uint32_t part_idx : view.part_order) {
        for (uint32_t i = 0; i < load_->leases().size(); i++) {
            copies_.push_back({i, part_idx});
        }
    }
}

std::vector<ExpertKey> AheadCopies::expect(const LayerView & view, const std::vector<ExpertKey> & keys) {
    is_planned_ = true;
    is_guess_   = true;
    std::vector<ExpertKey> missing;
    for (const ExpertKey key : keys) {
        if (key.layer_idx <= view.layer_idx || view.model->layouts->of(key).parts.size() != view.part_order.size()) {
            continue; // of the next token: the pass ends before
        }
        const auto expert_idx = static_cast<int32_t>(key.expert_idx);
        Resident   resident   = Resident::none;
        view.model->tier->find_resident(key.layer_idx, &expert_idx, 1, &resident);
        if (resident != (key.precision == Precision::hi ? Resident::hi : Resident::lo)) {
            missing.push_back(key);
        }
    }
    plan(view, missing);
    const auto is_loaded = [&](ExpertKey key) {
        return std::any_of(load_->leases().begin(), load_->leases().end(),
                           [key](const LoadStep::Lease & lease) { return lease.key == key; });
    };
    missing.erase(std::remove_if(missing.begin(), missing.end(), is_loaded), missing.end());
    return missing;
}

int32_t AheadCopies::begin(const Copy & copy) {
    const ExpertKey   key = load_->leases()[copy.lease_idx].key;
    const std::byte * src = load_->data(copy.lease_idx, copy.part_idx);
    return target_ == Target::staging ? ring_->begin_staged(key, copy.part_idx, src, false)
                                      : ring_->begin_copy(key, copy.part_idx, src, false, !is_guess_);
}

void AheadCopies::pump(const LayerView & view) {
    if (!is_planned_) {
        if (!pays(view)) {
            return;
        }
        plan_prompt(view);
    }
    const bool in_order = target_ == Target::one_use && view.model->tier->shape().has_ring();
    int64_t    full     = -1; // the part that has no buffer left
    for (Copy & copy : copies_) {
        if (copy.is_begun || copy.part_idx == full) {
            continue;
        }
        copy.buffer_idx = begin(copy);
        copy.is_begun   = copy.buffer_idx >= 0;
        if (!copy.is_begun && in_order) {
            return;
        }
        full = copy.is_begun ? full : copy.part_idx;
    }
}

void AheadCopies::settle() {
    if (!is_guess_) {
        return;
    }
    for (size_t i = copies_.size(); i-- > 0;) { // from the last: the link goes on from the first
        Copy & copy = copies_[i];
        if (copy.buffer_idx >= 0 && ring_->cancel(copy.buffer_idx)) {
            copy.buffer_idx = -1;
        }
    }
}

uint32_t AheadCopies::n_begun(ExpertKey key, const std::vector<uint32_t> & part_order) const {
    uint32_t n = 0;
    for (const Copy & copy : copies_) { // part by part
        if (n == part_order.size()) {
            break;
        }
        n += copy.buffer_idx >= 0 && copy.part_idx == part_order[n] && load_->leases()[copy.lease_idx].key == key;
    }
    return n;
}

uint64_t AheadCopies::n_bytes_left(ExpertKey key) const {
    uint64_t n = 0;
    for (const Copy & copy : copies_) {
        n += copy.buffer_idx >= 0 && load_->leases()[copy.lease_idx].key == key ? ring_->n_bytes_left(copy.buffer_idx)
                                                                                : 0;
    }
    return n;
}

int32_t AheadCopies::take(ExpertKey key, uint32_t part_idx, TierStep & step) {
    for (Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 && copy.part_idx == part_idx && load_->leases()[copy.lease_idx].key == key) {
            step.adopt(*ring_, copy.buffer_idx);
            return std::exchange(copy.buffer_idx, -1);
        }
    }
    return -1;
}

void AheadCopies::drop() {
    if (ring_) {
        ring_->abandon(load_);
    }
    ring_.reset();
    load_.reset();
    copies_.clear();
    is_planned_ = false;
    is_guess_   = false;
}

} // namespace hobbit
