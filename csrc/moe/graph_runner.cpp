#include "moe/graph_runner.h"

#include "moe/graph_nodes.h"
#include "tier/device_tier.h"

#include <algorithm>
#include <exception>

namespace hobbit {

namespace {

bool has_own_memory(ggml_backend_t backend) {
    return ggml_backend_dev_type(ggml_backend_get_device(backend)) != GGML_BACKEND_DEVICE_TYPE_CPU;
}

} // namespace

GraphRunner::GraphRunner(ggml_backend_t inner, IsExpertBuffer is_expert_buffer)
    : is_expert_buffer_(is_expert_buffer), is_gpu_(has_own_memory(inner)), inner_(inner), matmul_(inner),
      predictor_(inner), tiered_(inner) {}

ggml_status GraphRunner::compute(ggml_cgraph * graph) noexcept {
    ModelExperts * model = nullptr;
    Status         status;
    try {
        status = run(graph, model);
    } catch (const std::exception & error) { // out of memory, or a policy written in Python
        status = Status::error(error.what());
    }
    inner_.clear();
    pending_.clear();
    end_layer();
    if (status.ok()) {
        return GGML_STATUS_SUCCESS;
    }
    if (model != nullptr) {
        model->set_error(status);
    }
    return GGML_STATUS_FAILED;
}

void GraphRunner::end_layer() {
    tiered_.end();
    weights_.reset();
    step_.end();
}

Status GraphRunner::run(ggml_cgraph * graph, ModelExperts *& model) {
    const int n_nodes = ggml_graph_n_nodes(graph);
    inner_.reserve_nodes(n_nodes);
    // A GPU fuses nodes. What the predictor adds would come between them, so there nothing is predicted.
    inner_.set_parent(is_gpu_ ? graph : nullptr);
    if (!is_gpu_) {
        predictor_.begin_graph(graph);
    }
    for (int i = 0; i < n_nodes;) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (expert_tensor_of(node, is_expert_buffer_) == nullptr) {
            inner_.add(node);
            if (!is_gpu_) {
                predictor_.on_node(inner_, node);
            }
            ++i;
            continue;
        }
        find_layer(graph, i, is_expert_buffer_, view_);
        if (model == nullptr) {
            model = view_.model;
            model->counters.n_tokens += view_.n_tokens();
        }
        if (is_fixed()) {
            add_fixed(graph, i);
        } else {
            // Up to the router; also the end of the layer before, whose experts may go now.
            if (Status status = inner_.compute(); !status.ok()) {
                return status;
            }
            end_layer();
            if (Status status = compute_layer(graph); !status.ok()) {
                return status;
            }
        }
        i = view_.end_idx;
    }
    return inner_.compute();
}

Status GraphRunner::compute_layer(ggml_cgraph * graph) {
    if (view_.model->loader == nullptr) {
        return Status::error("the model's expert memory was not set before its first token");
    }
    if (Status status = step_.select(view_); !status.ok()) {
        return status;
    }
    const int first_idx = view_.nodes.front().node_idx;
    if (view_.model->tier != nullptr) {
        tiered_.begin(view_, step_);
        return tiered_.all_resident() && ExpertMatmul::can_add_whole(view_, step_, tiered_.weights())
                   ? add_resident(graph, first_idx, tiered_.weights())
                   : tiered_.run(graph, first_idx, inner_, matmul_);
    }
    step_.load_all(view_);
    weights_.emplace(*view_.model, step_.loaded(), every_lease_);
    if (view_.model->prefetch && !is_gpu_) {
        view_.model->loader->prefetch(predictor_.predict(view_), step_.part_order());
    }
    return step_.loaded().all_hit() && ExpertMatmul::can_add_whole(view_, step_, *weights_)
               ? add_resident(graph, first_idx, *weights_)
               : compute_arriving(graph, first_idx);
}

bool GraphRunner::is_fixed() const {
    return view_.model->tier != nullptr && view_.model->tier->fixed_slot(view_.layer_idx) >= 0;
}

// All experts of the layer are on the device for good, in their own order: the router's ids serve as they are.
void GraphRunner::add_fixed(ggml_cgraph * graph, int first_idx) {
    const DeviceWeights weights(*view_.model->tier, *view_.model->device_arena, step_.keys(), nullptr);
    auto                next = view_.nodes.begin();
    for (int i = first_idx; i < view_.end_idx; ++i) {
        if (next != view_.nodes.end() && next->node_idx == i) {
            ExpertMatmul::add_fixed(inner_, *next, view_, weights, view_.model->tier->fixed_slot(view_.layer_idx));
            ++next;
        } else {
            inner_.add(ggml_graph_node(graph, i));
        }
    }
    ++view_.model->counters.n_layer_steps;
}

// Nothing is computed here: the layer's nodes join the run that ends at the next router. The step stays open, so its
// experts stay pinned, until then.
Status GraphRunner::add_resident(ggml_cgraph * graph, int first_idx, const ExpertWeights & weights) {
    const std::vector<int32_t> & slots = step_.slot_ids(weights);
    ggml_tensor *                ids   = inner_.indices(slots.data(), static_cast<int64_t>(slots.size()));
    if (ids == nullptr) {
        return Status::error("out of memory for the slot numbers of " + std::to_string(slots.size()) + " rows");
    }
    ids->ne[0] = view_.n_used();
    ids->ne[1] = view_.n_tokens();
    ids->nb[1] = view_.n_used() * sizeof(int32_t);
    ids->nb[2] = ids->nb[3] = ids->nb[1] * view_.n_tokens();

    auto next = view_.nodes.begin();
    for (int i = first_idx; i < view_.end_idx; ++i) {
        if (next != view_.nodes.end() && next->node_idx == i) {
            ExpertMatmul::add_whole(inner_, *next, view_, weights, ids);
            ++next;
        } else {
            inner_.add(ggml_graph_node(graph, i));
        }
    }
    return {};
}

Status GraphRunner::compute_arriving(ggml_cgraph * graph, int first_idx) {
    pending_.clear();
    auto next = view_.nodes.begin();
    for (int i = first_idx; i < view_.end_idx; ++i) {
        ggml_tensor * node      = ggml_graph_node(graph, i);
        const bool    is_expert = next != view_.nodes.end() && next->node_idx == i;
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
        if (!step_.skipped_rows().empty()) {
            // Now, not in the run: what the run still reads may lie in the same memory.
            if (Status status = inner_.compute(); !status.ok()) {
                return status;
            }
            ExpertMatmul::clear_rows(*next, step_.skipped_rows());
        }
        if (Status status = add_ready_rows(*next); !status.ok()) {
            return status;
        }
        ++next;
    }
    return complete_all();
}

// Rows whose expert is here go into the run at once; the others become pending.
Status GraphRunner::add_ready_rows(const ExpertNode & node) {
    LoadStep & load = step_.loaded();
    Pending    pending;
    pending.node = &node;
    ready_.clear();
    for (uint32_t i = 0; i < load.leases().size(); ++i) {
        (load.ready(i, node.part_idx) ? ready_ : pending.lease_idxs).push_back(i);
    }
    if (!ready_.empty()) {
        if (Status status = matmul_.add_rows(inner_, node, view_, step_, *weights_, ready_); !status.ok()) {
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
Status GraphRunner::release_streamed(const ExpertNode & node, const std::vector<uint32_t> & lease_idxs) {
    LoadStep & load = step_.loaded();
    const bool streamed =
        std::any_of(lease_idxs.begin(), lease_idxs.end(), [&](uint32_t i) { return !load.leases()[i].slot; });
    if (!streamed) {
        return {};
    }
    if (Status status = inner_.compute(); !status.ok()) {
        return status;
    }
    for (uint32_t i : lease_idxs) {
        load.release_part(i, node.part_idx);
    }
    return {};
}

Status GraphRunner::complete(Pending & pending) {
    while (!pending.lease_idxs.empty()) {
        arrived_.clear();
        if (Status status = step_.loaded().wait_any(pending.node->part_idx, pending.lease_idxs, arrived_);
            !status.ok()) {
            return status;
        }
        if (Status status = matmul_.add_rows(inner_, *pending.node, view_, step_, *weights_, arrived_); !status.ok()) {
            return status;
        }
        if (Status status = inner_.compute(); !status.ok()) {
            return status;
        }
        if (Status status = release_streamed(*pending.node, arrived_); !status.ok()) {
            return status;
        }
    }
    return {};
}

Status GraphRunner::complete_all() {
    // What can be computed is computed while the drive works.
    if (!pending_.empty()) {
        if (Status status = inner_.compute(); !status.ok()) {
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
bool GraphRunner::reads_pending(const ggml_tensor * expert_node) const {
    const ggml_tensor * input = expert_node->src[1];
    const ggml_tensor * base  = input->view_src != nullptr ? input->view_src : input;
    return std::any_of(pending_.begin(), pending_.end(), [base](const Pending & p) { return p.node->node == base; });
}

} // namespace hobbit
