#include "moe/staged_layer.h"

#include "moe/expert_matmul.h"

#include <algorithm>

namespace hobbit {

namespace {

// For so few the host helps, if it may round otherwise. Where it may not, one token alone is left out: its rows sum in
// one order, wherever its weights lie.
constexpr uint32_t max_tokens_with_host = 8;

} // namespace

bool StagedLayer::takes_batch(const ModelExperts & model, uint32_t n_tokens) {
    return n_tokens > (model.host_compute == HostCompute::any ? max_tokens_with_host : 1);
}

bool StagedLayer::takes(const LayerView & view, const LayerStep & step) {
    const auto is_hi = [](ExpertKey key) { return key.precision == Precision::hi; };
    return takes_batch(*view.model, view.n_tokens()) && view.model->tier->can_stage(view.layer_idx) &&
           step.skipped_rows().empty() && std::all_of(step.keys().begin(), step.keys().end(), is_hi);
}

void StagedLayer::begin(const LayerView & view, LayerStep & step) {
    view_             = &view;
    step_             = &step;
    DeviceTier & tier = *view.model->tier;
    if (!staging_) {
        staging_ = std::make_unique<Staging>(tier);
    }
    staging_->borrow(view.layer_idx); // before anything is pinned
    tier_step_ = tier.begin(step.keys());
    tier_step_->find_missing(missing_, lease_idxs_);
    added_.clear();
    copies_.end();
    if (!missing_.empty()) {
        step.load(view, missing_);
        copies_.begin(view, step, *tier_step_, missing_, lease_idxs_, ahead_);
    }
    ahead_.drop();
    copies_.pump();
    stage_resident();
    pump(); // the next layer's, only now that this one has all its places
}

void StagedLayer::end() {
    copies_.end();
    tier_step_.reset();
    missing_.clear();
    added_.clear();
}

void StagedLayer::end_pass() {
    ahead_.drop();
    staging_.reset();
}

// A place is a slot of the same class, so they are laid out alike.
void StagedLayer::stage_resident() {
    const DeviceTier & tier = *view_->model->tier;
    for (uint32_t i = 0; i < step_->keys().size(); i++) {
        const SlotRef slot = tier_step_->slot(i);
        if (!slot) {
            continue;
        }
        const auto     class_idx  = static_cast<uint32_t>(slot.class_idx);
        const uint64_t slot_bytes = tier.layouts().classes[class_idx].slot_bytes;
        const uint64_t offset     = tier_step_->claim_staged(step_->keys()[i]);
        view_->model->device_arena->copy_within(device_, class_idx, static_cast<uint64_t>(slot.slot_idx) * slot_bytes,
                                                class_idx, offset, slot_bytes);
    }
}

void StagedLayer::pump() {
    if (copies_.pump() && AheadCopies::pays(*view_)) {
        ahead_.pump(*view_);
    }
}

Status StagedLayer::run(ggml_cgraph * graph, int first_idx, InnerGraph & inner) {
    const DeviceTier & tier = *view_->model->tier;
    WeightArea         area =
        view_->model->device_arena->area(tier.layouts().of({view_->layer_idx, 0, Precision::hi}).class_idx);
    area.data += tier.staged_offset(view_->layer_idx);
    auto next = view_->nodes.begin();
    for (int i = first_idx; i < view_->end_idx; ++i) {
        if (next == view_->nodes.end() || next->node_idx != i) {
            inner.add(ggml_graph_node(graph, i));
            continue;
        }
        if (Status status = bring(*next, inner); !status.ok()) {
            return status;
        }
        ExpertMatmul::add_in_order(inner, *next, *view_, tier.layouts(), Precision::hi, area);
        added_.push_back(next->part_idx);
        ++next;
    }
    pump();
    promotions_.promote(*view_->model, view_->part_order.size(), *step_, missing_, lease_idxs_);
    return {};
}

// Of a few tokens the device may fuse the products of one input: those are not parted.
bool StagedLayer::is_due(const ExpertNode & other, const ExpertNode & node) const {
    return other.part_idx == node.part_idx ||
           (view_->n_tokens() <= max_tokens_with_host && other.node->src[1] == node.node->src[1]);
}

// While the link works the device computes what it was given, and with that the next layer's matrices may come: also
// where nothing is waited for, before a layer's last matrix, or the link would idle until the next router.
Status StagedLayer::bring(const ExpertNode & node, InnerGraph & inner) {
    const bool is_last     = &node == &view_->nodes.back();
    const bool has_arrived = std::all_of(view_->nodes.begin(), view_->nodes.end(), [&](const ExpertNode & other) {
        return !is_due(other, node) || copies_.has_arrived(other.part_idx);
    });
    if (!has_arrived || (is_last && AheadCopies::pays(*view_))) {
        if (Status status = inner.compute(); !status.ok()) {
            return status;
        }
        for (const uint32_t part_idx : added_) {
            tier_step_->release_staged(view_->layer_idx, part_idx);
        }
        added_.clear();
        pump();
    }
    for (const ExpertNode & other : view_->nodes) {
        if (Status status = is_due(other, node) ? copies_.wait(other.part_idx) : Status{}; !status.ok()) {
            return status;
        }
    }
    return {};
}

} // namespace hobbit
