// How TieredLayer computes its pending nodes: in one product, on the host, and with what was copied.
#include "moe/tiered_layer.h"

#include <algorithm>
#include <string>
#include <utility>

namespace hobbit {

// Without what is copied. REQUIRES: no row of the pending nodes was computed yet on the device, since all are written.
Status TieredLayer::submit_resident(InnerGraph & inner) {
    for (const ExpertNode * node : pending_) {
        if (Status status = add_slots(*node, slot_ids_, inner); !status.ok()) {
            return status;
        }
    }
    return inner.submit();
}

Status TieredLayer::add_slots(const ExpertNode & node, const std::vector<int32_t> & slot_ids, InnerGraph & inner) {
    ggml_tensor * ids = inner.ids(slot_ids, view_->n_used(), view_->n_tokens());
    if (ids == nullptr) {
        return Status::error("out of memory for the slot numbers of " + std::to_string(slot_ids.size()) + " rows");
    }
    ExpertMatmul::add_whole(inner, node, *view_, *weights_, whole_precision_, ids);
    return {};
}

// What is resident, unless it was given to the device already, and, if all copies were begun, what was copied.
// REQUIRES: as submit_resident().
Status TieredLayer::submit_whole(InnerGraph & inner, ExpertMatmul & matmul, bool has_resident) {
    const bool with_copies = copies_.all_begun() && copies_.any_left(part_idxs_) && !copies_.awaits_stream();
    if (with_copies) {
        copies_.wait(part_idxs_);
    }
    for (const ExpertNode * node : pending_) {
        arrived_.clear();
        buffers_.assign(step_->keys().size(), -1);
        ids_ = slot_ids_;
        if (with_copies) {
            copies_.take_arrived(node->part_idx, arrived_, buffers_);
        }
        weights_->set_buffers(buffers_);
        // Those in spare slots of the class are multiplied by like all others.
        const auto is_in_class = [&](uint32_t i) {
            const int32_t slot_idx = weights_->spare_slot(i, node->part_idx);
            if (slot_idx < 0 || step_->keys()[i].precision != whole_precision_) {
                return false;
            }
            for (uint32_t r = 0; r < step_->n_rows(i); r++) {
                ids_[step_->rows(i)[r]] = slot_idx;
            }
            return true;
        };
        arrived_.erase(std::remove_if(arrived_.begin(), arrived_.end(), is_in_class), arrived_.end());
        if (Status status = has_resident ? Status{} : add_slots(*node, ids_, inner); !status.ok()) {
            return status;
        }
        const uint32_t n_padded = view_->n_tokens() == 1 ? view_->n_used() : 0;
        const Status status = is_parted_ ? add_lo_rows(*node, n_padded, inner, matmul)
                                         : matmul.add_rows(inner, *node, *view_, *step_, *weights_, arrived_, n_padded);
        if (!status.ok()) {
            return status;
        }
    }
    return inner.submit();
}

// Of one token. They lie in slots of their class, for good or for one use.
Status TieredLayer::add_lo_rows(const ExpertNode & node, uint32_t n_padded, InnerGraph & inner, ExpertMatmul & matmul) {
    lo_rows_.clear();
    lo_slots_.clear();
    for (uint32_t i = 0; i < step_->keys().size(); i++) {
        const SlotRef slot     = tier_step_->slot(i);
        const int32_t slot_idx = slot ? slot.slot_idx : weights_->spare_slot(i, node.part_idx);
        if (step_->keys()[i].precision == Precision::lo && slot_idx >= 0) {
            lo_rows_.push_back(step_->rows(i)[0]);
            lo_slots_.push_back(slot_idx);
        }
    }
    return matmul.add_slot_rows(inner, node, *view_, *weights_, Precision::lo, lo_rows_, lo_slots_, n_padded);
}

void TieredLayer::find_host_shares() {
    host_shares_.clear();
    for (const ExpertNode * node : pending_) {
        const bool any = std::any_of(missing_.begin(), missing_.end(),
                                     [&](uint32_t i) { return place_of(i, node->part_idx) == Place::host; });
        if (any) {
            host_shares_.push_back({node, {}});
            copies_.take_loaded_for_host(node->part_idx, host_shares_.back().ready);
        }
    }
}

// Whether what the host multiplies for the node has the device's bits.
bool TieredLayer::rounds_as_device(const LayerView & view, const ExpertNode & node) const {
    const ModelExperts & model = *view.model;
    return model.tier != nullptr && model.host_compute != HostCompute::never &&
           model.rounds_as_device(view.layer_idx, node.part_idx, view.n_tokens());
}

// Those of the host's share that the device did not quantise yet. Returns whether there were any.
bool TieredLayer::quantize_inputs(InnerGraph & inner) {
    bool any = false;
    for (const HostShare & share : host_shares_) {
        const ggml_tensor * input = share.node->node->src[1];
        if (rounds_as_device(*view_, *share.node) && quants_.of(input) == nullptr) {
            any = quants_.add(inner, input) != nullptr || any;
        }
    }
    return any;
}

// The host works on its share of all pending nodes while the device works on what it has and copies arrive. What is
// loaded goes into one run.
Status TieredLayer::compute_host() {
    if (host_shares_.empty()) {
        return {};
    }
    if (!host_) {
        host_ = std::make_unique<HostProducts>(device_);
        host_->set_n_threads(n_threads_);
    }
    for (const HostShare & share : host_shares_) {
        const ggml_tensor * input  = share.node->node->src[1];
        const ggml_tensor * quants = rounds_as_device(*view_, *share.node) ? quants_.of(input) : nullptr;
        if (quants == nullptr && view_->model->host_compute == HostCompute::as_device) {
            return Status::error("out of memory for a token's inputs, as the device quantises them");
        }
        host_->begin(*share.node, quants != nullptr ? quants : input, *reads_);
    }
    return multiply_ready();
}

Status TieredLayer::multiply_ready() {
    for (const HostShare & share : host_shares_) {
        if (Status status = host_->add(*share.node, *view_, *step_, *loaded_, share.ready); !status.ok()) {
            return status;
        }
    }
    const Status status = host_->compute();
    if (host_->work().n_parts > 0) {
        view_->model->tier->on_host_work(host_->work());
    }
    if (!status.ok()) {
        return status;
    }
    for (const HostShare & share : host_shares_) {
        for (uint32_t i : share.ready) {
            step_->loaded().release_part(static_cast<uint32_t>(lease_idxs_[i]), share.node->part_idx);
        }
    }
    return {};
}

// The host's share of what the drive has brought since. `any`: there was some.
Status TieredLayer::compute_late(bool & any) {
    any = false;
    for (HostShare & share : host_shares_) {
        copies_.take_loaded_for_host(share.node->part_idx, share.ready);
        any = any || !share.ready.empty();
    }
    if (!any) {
        return {};
    }
    if (Status status = multiply_ready(); !status.ok()) {
        return status;
    }
    host_->send(*step_);
    return {};
}

// What is copied and what the drive still brings, as it comes. The drive is waited for when there is nothing else to
// do (LayerCopies says why).
Status TieredLayer::complete_rest(InnerGraph & inner, ExpertMatmul & matmul) {
    for (;;) {
        pump();
        bool any_late = false;
        if (Status status = compute_late(any_late); !status.ok()) {
            return status;
        }
        if (any_late) {
            continue;
        }
        Status status;
        if (copies_.any_under_way(part_idxs_)) {
            status = multiply_copies(inner, matmul);
        } else if (copies_.any_left(part_idxs_) || copies_.any_left_for_host(part_idxs_)) {
            status = copies_.wait_for_drive(part_idxs_);
        } else {
            return {};
        }
        if (!status.ok()) {
            return status;
        }
    }
}

Status TieredLayer::multiply_copies(InnerGraph & inner, ExpertMatmul & matmul) {
    copies_.wait(part_idxs_);
    used_buffers_.clear();
    for (const ExpertNode * node : pending_) {
        copies_.take_arrived(node->part_idx, arrived_, buffers_);
        weights_->set_buffers(buffers_);
        for (const uint32_t i : arrived_) {
            used_buffers_.push_back(buffers_[i]);
        }
        if (Status status = matmul.add_rows(inner, *node, *view_, *step_, *weights_, arrived_); !status.ok()) {
            return status;
        }
    }
    // Of a ring, what waits for buffers, in this layer or the next, gets them as soon as these were used; spare slots
    // are given back with the step.
    if (copies_.all_begun() && !copies_.awaits_stream() && !AheadCopies::pays(*view_) &&
        !view_->model->tier->shape().has_ring()) {
        return inner.submit();
    }
    if (Status status = inner.compute(); !status.ok()) {
        return status;
    }
    for (const int32_t buffer_idx : used_buffers_) {
        tier_step_->release(buffer_idx);
    }
    return {};
}

} // namespace hobbit
