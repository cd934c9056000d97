#include "moe/arriving_layer.h"

#include "moe/graph_nodes.h"
#include "moe/importance.h"

#include <algorithm>

namespace hobbit {

Status ArrivingLayer::run(ggml_cgraph * graph, int first_idx, const LayerView & view, LayerStep & step,
                          const LoadedWeights & weights) {
    view_    = &view;
    step_    = &step;
    weights_ = &weights;
    pending_.clear();
    const bool is_late_apart =
        on_cpu_ && view.model->importance == nullptr && late_.begin(graph, first_idx, view, step, weights);
    auto next = view.nodes.begin();
    for (int i = first_idx; i < view.end_idx; ++i) {
        ggml_tensor * node      = ggml_graph_node(graph, i);
        const bool    is_expert = next != view.nodes.end() && next->node_idx == i;
        // Only expert nodes may overtake pending rows: the allocator may have given an ordinary node the memory that
        // those rows are still to be computed from, since in graph order their input is not needed any more.
        if (is_expert ? reads_pending(node) : !is_no_op(node)) {
            if (Status status = complete_all(); !status.ok()) {
                return status;
            }
        }
        if (!is_expert) {
            inner_.add(node);
            continue;
        }
        if (view.model->importance != nullptr) {
            if (Status status = compute_(); !status.ok()) {
                return status;
            }
            view.model->importance->add(view, *next, step.ids());
        }
        if (!step.skipped_rows().empty()) {
            // Now, not in the run: what the run still reads may lie in the same memory.
            if (Status status = compute_(); !status.ok()) {
                return status;
            }
            ExpertMatmul::clear_rows(*next, step.skipped_rows());
        }
        if (Status status = is_late_apart ? matmul_.add_rows(inner_, *next, view, step, weights, late_.ready())
                                          : add_ready_rows(*next);
            !status.ok()) {
            return status;
        }
        if (is_late_apart) {
            if (Status status = late_.add_blank_rows(inner_, *next); !status.ok()) {
                return status;
            }
        }
        ++next;
    }
    return is_late_apart ? complete_late() : complete_all();
}

Status ArrivingLayer::complete_late() {
    while (!late_.wanted().empty()) {
        // What can be computed is computed while the drive works.
        if (Status status = compute_(); !status.ok()) {
            return status;
        }
        arrived_parts_.clear();
        if (Status status = wait([&] { return step_->loaded().wait_any(late_.wanted(), arrived_parts_); });
            !status.ok()) {
            return status;
        }
        if (Status status = late_.add(inner_, matmul_, arrived_parts_); !status.ok()) {
            return status;
        }
        const auto is_streamed = [&](const LeasePart & part) { return !step_->loaded().leases()[part.lease_idx].slot; };
        if (!std::any_of(arrived_parts_.begin(), arrived_parts_.end(), is_streamed)) {
            continue;
        }
        if (Status status = compute_(); !status.ok()) {
            return status;
        }
        for (const LeasePart & part : arrived_parts_) {
            step_->loaded().release_part(part.lease_idx, part.part_idx);
        }
    }
    return {}; // what came last joins the run that ends at the next router
}

// Recorded on the model's timeline.
template <typename Wait> Status ArrivingLayer::wait(const Wait & wait_for) {
    const TimelineSpan span(*view_->model->timeline, Timeline::Kind::stall, view_->layer_idx);
    const uint64_t     start_us = Timeline::now_us();
    const Status       status   = wait_for();
    stall_us_ += Timeline::now_us() - start_us;
    return status;
}

// Rows whose expert is here go into the run at once; the others become pending.
Status ArrivingLayer::add_ready_rows(const ExpertNode & node) {
    LoadStep & load = step_->loaded();
    Pending    pending;
    pending.node = &node;
    ready_.clear();
    for (uint32_t i = 0; i < load.leases().size(); ++i) {
        (load.ready(i, node.part_idx) ? ready_ : pending.lease_idxs).push_back(i);
    }
    if (!ready_.empty()) {
        if (Status status = matmul_.add_rows(inner_, node, *view_, *step_, *weights_, ready_); !status.ok()) {
            return status;
        }
        if (Status status = release_streamed(node, ready_); !status.ok()) {
            return status;
        }
    }
    if (!pending.lease_idxs.empty()) {
        pending_.push_back(std::move(pending));
    }
    return {};
}

// A stream buffer is reused as soon as it is given back, so what reads it must have been computed.
Status ArrivingLayer::release_streamed(const ExpertNode & node, const std::vector<uint32_t> & lease_idxs) {
    LoadStep & load = step_->loaded();
    const bool streamed =
        std::any_of(lease_idxs.begin(), lease_idxs.end(), [&](uint32_t i) { return !load.leases()[i].slot; });
    if (!streamed) {
        return {};
    }
    if (Status status = compute_(); !status.ok()) {
        return status;
    }
    for (uint32_t i : lease_idxs) {
        load.release_part(i, node.part_idx);
    }
    return {};
}

Status ArrivingLayer::complete(Pending & pending) {
    while (!pending.lease_idxs.empty()) {
        arrived_.clear();
        if (Status status =
                wait([&] { return step_->loaded().wait_any(pending.node->part_idx, pending.lease_idxs, arrived_); });
            !status.ok()) {
            return status;
        }
        if (Status status = matmul_.add_rows(inner_, *pending.node, *view_, *step_, *weights_, arrived_);
            !status.ok()) {
            return status;
        }
        if (Status status = compute_(); !status.ok()) {
            return status;
        }
        if (Status status = release_streamed(*pending.node, arrived_); !status.ok()) {
            return status;
        }
    }
    return {};
}

Status ArrivingLayer::complete_all() {
    // What can be computed is computed while the drive works.
    if (!pending_.empty()) {
        if (Status status = compute_(); !status.ok()) {
            return status;
        }
    }
    for (Pending & pending : pending_) {
        if (Status status = complete(pending); !status.ok()) {
            return status;
        }
    }
    pending_.clear();
    return {};
}

// Follows views: the input may be a reshaped output of another expert node.
bool ArrivingLayer::reads_pending(const ggml_tensor * expert_node) const {
    const ggml_tensor * input = expert_node->src[1];
    const ggml_tensor * base  = input->view_src != nullptr ? input->view_src : input;
    return std::any_of(pending_.begin(), pending_.end(), [base](const Pending & p) { return p.node->node == base; });
}

} // namespace hobbit
