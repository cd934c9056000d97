#include "moe/unified_layer.h"

#include "moe/expert_matmul.h"
#include "moe/staged_layer.h"

#include <algorithm>
#include <cstring>

namespace hobbit {

namespace {

constexpr int tensors_per_run = 3; // of neighbours that are gathered

const CopyLayout & layout_of(const LayerView & view) {
    return view.model->layouts->of({view.layer_idx, 0, Precision::hi});
}

const SizeClass & class_of(const LayerView & view) { return view.model->layouts->classes[layout_of(view).class_idx]; }

bool fits_as_a_whole(const LayerView & view) {
    return view.model->loader->n_slots(static_cast<int32_t>(layout_of(view).class_idx)) >= class_of(view).n_copies;
}

} // namespace

bool UnifiedLayer::takes(const LayerView & view, const LayerStep & step) {
    const ModelExperts & model = *view.model;
    if (!model.is_unified || view.n_tokens() == 1 || !step.skipped_rows().empty()) {
        return false;
    }
    const auto is_hi = [](ExpertKey key) { return key.precision == Precision::hi; };
    return std::all_of(step.keys().begin(), step.keys().end(), is_hi) &&
           (fits_as_a_whole(view) || (model.layer_area != nullptr && StagedLayer::takes_batch(model, view.n_tokens())));
}

void UnifiedLayer::begin(const LayerView & view) {
    view_                     = &view;
    const CopyLayout & layout = layout_of(view);
    Loader &           loader = *view.model->loader;
    const std::byte *  in_order =
        loader.arena(static_cast<int32_t>(layout.class_idx)) + uint64_t{layout.first_idx} * class_of(view).slot_bytes;
    if (!fits_as_a_whole(view)) {
        hold_    = view.model->layer_area->take();
        in_order = hold_.data();
    }
    experts_ = view.model->host_area(in_order);
}

bool UnifiedLayer::is_in_place(LayerStep & step) const {
    const auto first_idx = static_cast<int32_t>(layout_of(*view_).first_idx);
    const auto has_own   = [first_idx](const LoadStep::Lease & lease) {
        return lease.slot && lease.slot.slot_idx == first_idx + static_cast<int32_t>(lease.key.expert_idx);
    };
    const auto & leases = step.loaded().leases();
    return !has_own_slots() || std::all_of(leases.begin(), leases.end(), has_own);
}

// The device copies at its memory's full rate, which a thread of the host does not.
Status UnifiedLayer::gather_resident(LayerStep & step, InnerGraph & inner) {
    const CopyLayout & layout     = layout_of(*view_);
    const uint64_t     slot_bytes = class_of(*view_).slot_bytes;
    const auto         row_values = static_cast<int64_t>(slot_bytes / sizeof(int32_t));
    const WeightArea   slots =
        view_->model->host_area(view_->model->loader->arena(static_cast<int32_t>(layout.class_idx)));
    const int64_t n_slots = view_->model->loader->n_slots(static_cast<int32_t>(layout.class_idx));
    const auto &  leases  = step.loaded().leases(); // ascending experts
    for (size_t i = 0; i < leases.size();) {
        const uint16_t first_expert = leases[i].key.expert_idx;
        slot_idxs_.clear();
        for (; i < leases.size() && leases[i].hit && leases[i].key.expert_idx == first_expert + slot_idxs_.size();
             i++) {
            slot_idxs_.push_back(leases[i].slot.slot_idx);
        }
        if (slot_idxs_.empty()) {
            i++;
            continue;
        }
        const auto n = static_cast<int64_t>(slot_idxs_.size());
        if (!inner.has_room(tensors_per_run, n)) {
            if (Status status = inner.submit(); !status.ok()) {
                return status;
            }
        }
        ggml_tensor * from = inner.tensor_over(GGML_TYPE_I32, row_values, n_slots, 1, slots.buffer, slots.data);
        ggml_tensor * rows = inner.indices(slot_idxs_.data(), n);
        if (rows == nullptr) {
            return Status::error("out of memory for the slot numbers of " + std::to_string(n) + " experts");
        }
        ggml_tensor * to = ggml_get_rows(inner.context(), from, rows);
        to->buffer       = experts_.buffer;
        to->data         = experts_.data + first_expert * slot_bytes;
        inner.add_made(to);
    }
    return {};
}

// What waits for the drive; the device computes meanwhile.
Status UnifiedLayer::bring(uint32_t part_idx, LayerStep & step, InnerGraph & inner) {
    LoadStep & load = step.loaded();
    wanted_.clear();
    for (uint32_t i = 0; i < load.leases().size(); i++) {
        if (!load.leases()[i].hit) {
            wanted_.push_back(i);
        }
    }
    if (wanted_.empty()) {
        return {};
    }
    if (Status status = inner.submit(); !status.ok()) {
        return status;
    }
    const PartLayout & part       = layout_of(*view_).parts[part_idx];
    const uint64_t     slot_bytes = class_of(*view_).slot_bytes;
    while (!wanted_.empty()) {
        arrived_.clear();
        {
            const TimelineSpan span(*view_->model->timeline, Timeline::Kind::stall, view_->layer_idx);
            if (Status status = load.wait_any(part_idx, wanted_, arrived_); !status.ok()) {
                return status;
            }
        }
        for (const uint32_t i : arrived_) {
            if (!has_own_slots()) {
                std::memcpy(experts_.data + load.leases()[i].key.expert_idx * slot_bytes + part.data_offset,
                            load.data(i, part_idx), part.n_bytes);
            }
            load.release_part(i, part_idx);
        }
    }
    return {};
}

Status UnifiedLayer::run(ggml_cgraph * graph, int first_idx, LayerStep & step, InnerGraph & inner) {
    ++view_->model->counters.n_unified_steps;
    const Status status = add_nodes(graph, first_idx, step, inner);
    if (!status.ok()) { // what the device was given still writes to the area, which another context will take
        inner.clear();
        (void)inner.compute();
    }
    return status;
}

Status UnifiedLayer::add_nodes(ggml_cgraph * graph, int first_idx, LayerStep & step, InnerGraph & inner) {
    if (Status status = has_own_slots() ? Status{} : gather_resident(step, inner); !status.ok()) {
        return status;
    }
    auto next = view_->nodes.begin();
    for (int i = first_idx; i < view_->end_idx; ++i) {
        if (next == view_->nodes.end() || next->node_idx != i) {
            inner.add(ggml_graph_node(graph, i));
            continue;
        }
        if (Status status = bring(next->part_idx, step, inner); !status.ok()) {
            return status;
        }
        ExpertMatmul::add_in_order(inner, *next, *view_, *view_->model->layouts, Precision::hi, experts_);
        ++next;
    }
    return {};
}

} // namespace hobbit
