#include "moe/inner_graph.h"

#include "moe/device_reads.h"

#include "ggml-impl.h" // ggml_cgraph

#include <algorithm>
#include <utility>

namespace hobbit {

bool DeviceScratch::reserve(size_t n_bytes) {
    if (n_bytes <= n_bytes_) {
        return true;
    }
    buffer_.reset();
    n_bytes_ = 0;
    buffer_.reset(ggml_backend_alloc_buffer(backend_, n_bytes));
    if (!buffer_) {
        return false;
    }
    n_bytes_ = n_bytes;
    return true;
}

ggml_tensor flat_tensor(ggml_type type, size_t n, ggml_backend_buffer_t buffer, void * data) {
    ggml_tensor t = {};
    t.type        = type;
    t.ne[0]       = static_cast<int64_t>(n);
    t.ne[1] = t.ne[2] = t.ne[3] = 1;
    t.nb[0]                     = ggml_type_size(type);
    t.nb[1] = t.nb[2] = t.nb[3] = n * t.nb[0];
    t.buffer                    = buffer;
    t.data                      = data;
    return t;
}

InnerGraph::InnerGraph(ggml_backend_t backend) : backend_(backend), index_scratch_(backend) {
    ggml_init_params params = {};
    params.mem_size         = ggml_tensor_overhead() * max_tensors;
    params.no_alloc         = true;
    tensors_.reset(ggml_init(params));
    reserve_nodes(max_tensors);
}

void InnerGraph::reserve_nodes(int n_nodes) {
    const int wanted = n_nodes + max_tensors;
    if (wanted <= node_limit_) {
        return;
    }
    ggml_init_params params = {};
    params.mem_size         = ggml_graph_overhead_custom(static_cast<size_t>(wanted), false) + 1024;
    params.no_alloc         = true;
    graph_context_.reset(ggml_init(params));
    graph_      = ggml_new_graph_custom(graph_context_.get(), static_cast<size_t>(wanted), false);
    node_limit_ = wanted;
}

void InnerGraph::add(ggml_tensor * node) {
    ggml_graph_add_node(graph_, node);
    ++n_nodes_;
}

void InnerGraph::add_over(ggml_tensor * node, ggml_tensor * weights, ggml_tensor * ids) {
    replaced_.push_back({node, node->src[0], node->src[2]});
    node->src[0] = weights;
    node->src[2] = ids != nullptr ? ids : node->src[2];
    add(node);
}

void InnerGraph::add_made(ggml_tensor * node) {
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    ++n_made_;
    add(node);
}

ggml_tensor * InnerGraph::tensor_over(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2,
                                      ggml_backend_buffer_t buffer, void * data) {
    ggml_tensor * t = ggml_new_tensor_3d(context(), type, ne0, ne1, ne2);
    t->buffer       = buffer;
    t->data         = data;
    return t;
}

ggml_tensor * InnerGraph::indices(const int32_t * values, int64_t n) {
    // One allocation for the life of the graph: pointers handed out earlier must stay valid.
    if (!index_scratch_.reserve(max_indices * sizeof(int32_t))) {
        return nullptr;
    }
    char *        at = index_scratch_.data() + static_cast<size_t>(n_indices_) * sizeof(int32_t);
    ggml_tensor * t  = tensor_over(GGML_TYPE_I32, n, 1, 1, index_scratch_.buffer(), at);
    index_values_.resize(max_indices);
    std::copy(values, values + n, index_values_.begin() + n_indices_);
    n_indices_ += (n + 15) / 16 * 16; // keeps every array aligned to 64 bytes
    return t;
}

ggml_tensor * InnerGraph::ids(const std::vector<int32_t> & values, int64_t n_used, int64_t n_tokens) {
    ggml_tensor * t = indices(values.data(), static_cast<int64_t>(values.size()));
    if (t == nullptr) {
        return nullptr;
    }
    t->ne[0] = n_used;
    t->ne[1] = n_tokens;
    t->nb[1] = static_cast<size_t>(n_used) * sizeof(int32_t);
    t->nb[2] = t->nb[3] = t->nb[1] * static_cast<size_t>(n_tokens);
    return t;
}

bool InnerGraph::has_room(int n_tensors, int64_t n_indices) const {
    size_t used = ggml_used_mem(tensors_.get());
    size_t need = ggml_tensor_overhead() * static_cast<size_t>(n_tensors);
    return used + need <= ggml_get_mem_size(tensors_.get()) && n_nodes_ + n_tensors <= node_limit_ &&
           n_indices_ + (n_indices + 15) / 16 * 16 + 64 <= max_indices;
}

void InnerGraph::clear() {
    for (const Replaced & r : replaced_) {
        r.node->src[0] = r.weights;
        r.node->src[2] = r.ids;
    }
    replaced_.clear();
    ggml_graph_clear(graph_);
    ggml_reset(tensors_.get());
    n_nodes_ = 0;
    n_made_  = 0;
    if (!submitted_) { // else the device may still read them
        n_indices_ = 0;
        n_sent_    = 0;
    }
    first_idx_ = n_indices_;
}

void InnerGraph::begin_with_mark(ggml_cgraph & run) {
    const Kind kind = recurring_layer_ == one_time ? Kind{one_time}
                                                   : Kind{recurring_layer_, n_nodes_, n_made_, first_idx_, n_indices_};
    std::unique_ptr<ggml_tensor> & mark = marks_[kind];
    if (!mark) {
        mark = std::make_unique<ggml_tensor>(
            flat_tensor(GGML_TYPE_I32, 1, index_scratch_.buffer(), index_scratch_.data())); // without an operation
    }
    marked_nodes_.assign(1, mark.get());
    marked_nodes_.insert(marked_nodes_.end(), run.nodes, run.nodes + run.n_nodes);
    run.nodes   = marked_nodes_.data();
    run.n_nodes = static_cast<int>(marked_nodes_.size());
}

Status InnerGraph::start() {
    ggml_cgraph run = *graph_;
    if (parent_ != nullptr) {
        run.visited_hash_set = parent_->visited_hash_set;
        run.use_counts       = parent_->use_counts;
        // The same graph as last time, over weights that never move: the device need not compare node by node.
        const bool is_parent = n_nodes_ == parent_->n_nodes && n_made_ == 0 && n_indices_ == 0;
        run.uid              = is_parent ? parent_->uid : 0;
    }
    if (recurring_layer_ != -1 && n_nodes_ > 0 && index_scratch_.reserve(max_indices * sizeof(int32_t))) {
        begin_with_mark(run);
    }
    if (n_indices_ > n_sent_) {
        ggml_tensor all = flat_tensor(GGML_TYPE_I32, max_indices, index_scratch_.buffer(), index_scratch_.data());
        ggml_backend_tensor_set_async(backend_, &all, index_values_.data() + n_sent_,
                                      static_cast<size_t>(n_sent_) * sizeof(int32_t),
                                      static_cast<size_t>(n_indices_ - n_sent_) * sizeof(int32_t));
        n_sent_ = n_indices_;
    }
    const ggml_status status = empty() ? GGML_STATUS_SUCCESS : ggml_backend_graph_compute_async(backend_, &run);
    submitted_               = submitted_ || !empty();
    if (status != GGML_STATUS_SUCCESS) {
        return Status::error(std::string("the device could not compute: ") + ggml_status_to_string(status));
    }
    return {};
}

Status InnerGraph::submit() {
    const Status status = start();
    clear();
    return status;
}

Status InnerGraph::compute(DeviceReads * reads, const std::function<void()> & meanwhile) {
    const Status status = start();
    if (reads != nullptr && status.ok()) {
        reads->begin();
        submitted_ = true;
    }
    if (meanwhile) {
        meanwhile();
    }
    if (std::exchange(submitted_, false)) {
        ggml_backend_synchronize(backend_);
    }
    clear();
    return status;
}

} // namespace hobbit
