#include "moe/late_experts.h"

#include "moe/graph_nodes.h"

#include "ggml-impl.h" // ggml_node_get_use_count

#include <algorithm>
#include <cstring>
#include <string>

namespace hobbit {

namespace {

// Of larger batches the rows would need much memory, and an expert's rows are worth a run of their own.
constexpr uint32_t max_tokens = 8;

alignas(64) std::byte buffer_anchor[64];

// Computes every element from those at its place, or every row from that row.
bool is_by_row(const ggml_tensor * node) {
    switch (node->op) {
    case GGML_OP_GLU:
    case GGML_OP_UNARY:
    case GGML_OP_SCALE:
    case GGML_OP_CLAMP:
    case GGML_OP_SQR:
    case GGML_OP_ADD:
    case GGML_OP_MUL:
    case GGML_OP_ADD_ID:
        return true;
    default:
        return false;
    }
}

const ggml_tensor * base_of(const ggml_tensor * tensor) {
    return tensor->view_src != nullptr ? tensor->view_src : tensor;
}

int n_reads_of(const ggml_tensor * node, const ggml_tensor * tensor) {
    return static_cast<int>(std::count(std::begin(node->src), std::end(node->src), tensor));
}

} // namespace

LateExperts::LateExperts() : buffer_(ggml_backend_cpu_buffer_from_ptr(buffer_anchor, sizeof(buffer_anchor))) {}

bool LateExperts::begin(ggml_cgraph * graph, int first_idx, const LayerView & view, LayerStep & step,
                        const LoadedWeights & weights) {
    view_    = &view;
    step_    = &step;
    weights_ = &weights;
    wanted_.clear();
    ready_.clear();
    late_.clear();
    if (view.n_tokens() > max_tokens) {
        return false;
    }
    const LoadStep & load = step.loaded();
    for (uint32_t i = 0; i < load.leases().size(); i++) {
        // A streamed one is late even if it has come: others may wait for its buffers, which ready ones keep to the end
        // of the step.
        const bool is_ready =
            load.leases()[i].slot && std::all_of(view.nodes.begin(), view.nodes.end(),
                                                 [&](const ExpertNode & node) { return load.ready(i, node.part_idx); });
        (is_ready ? ready_ : late_).push_back(i);
    }
    if (late_.empty()) {
        return true;
    }
    if (!make_links(graph, first_idx) || is_read_elsewhere(graph, first_idx)) {
        return false;
    }
    has_come_.assign(load.leases().size(), std::vector<bool>(view.part_order.size(), false));
    for (const ExpertNode & node : view.nodes) {
        for (const uint32_t i : late_) {
            wanted_.push_back({i, node.part_idx});
        }
    }
    make_twins();
    late_rows_.clear();
    for (const uint32_t i : late_) {
        late_rows_.insert(late_rows_.end(), step.rows(i), step.rows(i) + step.n_rows(i));
    }
    for (const ExpertNode & node : view.nodes) {
        zeros_.resize(std::max(zeros_.size(), late_rows_.size() * static_cast<size_t>(node.node->ne[0])));
    }
    return true;
}

bool LateExperts::make_links(ggml_cgraph * graph, int first_idx) {
    links_.clear();
    auto next = view_->nodes.begin();
    for (int i = first_idx; i < view_->end_idx; i++) {
        ggml_tensor * node      = ggml_graph_node(graph, i);
        const bool    is_expert = next != view_->nodes.end() && next->node_idx == i;
        if (!add_link(node, is_expert ? &*next : nullptr)) {
            return false;
        }
        next += is_expert ? 1 : 0;
    }
    return true;
}

// False: the node reads what is computed for late experts, and cannot be computed for single rows.
bool LateExperts::add_link(ggml_tensor * node, const ExpertNode * expert) {
    Link link;
    link.original     = node;
    bool reads_others = false;
    for (const ggml_tensor * source : node->src) {
        if (source == nullptr || (expert != nullptr && source != node->src[1]) || is_of_expert(node, source)) {
            continue;
        }
        const int made_by = link_of(source);
        if (made_by >= 0) {
            link.needs.push_back(static_cast<uint32_t>(made_by));
        } else {
            reads_others = true;
        }
    }
    if (expert != nullptr) {
        link.expert = *expert;
        links_.push_back(std::move(link));
        return ggml_is_contiguous(node);
    }
    if (link.needs.empty() || is_no_op(node)) {
        return true; // nothing of an expert's, or a view on it
    }
    const auto has_rows = [&](const ggml_tensor * t) {
        return t == nullptr || is_of_expert(node, t) ||
               (t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->ne[3] == 1 && t->ne[1] == view_->n_used() &&
                t->ne[2] == view_->n_tokens());
    };
    links_.push_back(std::move(link));
    return is_by_row(node) && !reads_others && node->view_src == nullptr && ggml_is_contiguous(node) &&
           has_rows(node) && std::all_of(std::begin(node->src), std::end(node->src), has_rows);
}

// Weights with a row for every expert, or the ids that choose among these.
bool LateExperts::is_of_expert(const ggml_tensor * node, const ggml_tensor * source) const {
    return node->op == GGML_OP_ADD_ID &&
           (source == view_->ids || (source == node->src[1] && source->op == GGML_OP_NONE));
}

// The link that makes what a tensor is, or is a view on; -1: none.
int LateExperts::link_of(const ggml_tensor * tensor) const {
    const auto found =
        std::find_if(links_.begin(), links_.end(), [=](const Link & l) { return l.original == base_of(tensor); });
    return found == links_.end() ? -1 : static_cast<int>(found - links_.begin());
}

// Whether anything but the layer's own nodes reads what twins are made of.
bool LateExperts::is_read_elsewhere(ggml_cgraph * graph, int first_idx) const {
    for (int i = first_idx; i + 1 < view_->end_idx; i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (link_of(node) < 0) {
            continue;
        }
        int n_reads = 0;
        for (int k = i + 1; k < view_->end_idx; k++) {
            n_reads += n_reads_of(ggml_graph_node(graph, k), node);
        }
        if ((node->flags & GGML_TENSOR_FLAG_OUTPUT) != 0 || ggml_node_get_use_count(graph, i) != n_reads) {
            return true;
        }
    }
    return false;
}

void LateExperts::make_twins() {
    n_twins_            = 0;
    const size_t n_keys = has_come_.size();
    for (Link & link : links_) {
        link.is_done.assign(n_keys, false);
        link.node = link.original == view_->nodes.back().node ? *link.original : over_twin(*link.original);
        if (!link.is_expert()) {
            link.sources.resize(GGML_MAX_SRC);
            for (int i = 0; i < GGML_MAX_SRC; i++) {
                const ggml_tensor * source = link.original->src[i];
                if (source != nullptr && !is_of_expert(link.original, source)) {
                    link.sources[static_cast<size_t>(i)] = over_twin(*source);
                }
            }
            continue;
        }
        const ggml_tensor * input   = link.original->src[1];
        const size_t        n_twins = n_twins_;
        link.input                  = over_twin(*input);
        if (n_twins_ > n_twins) { // not made by the layer, and its memory may be given away within it
            std::memcpy(twin_of(base_of(input)).data.data(), base_of(input)->data, ggml_nbytes(base_of(input)));
        }
        link.node.src[1] = &link.input;
        link.expert.node = &link.node;
    }
}

LateExperts::Twin & LateExperts::twin_of(const ggml_tensor * tensor) {
    const auto end   = twins_.begin() + static_cast<std::ptrdiff_t>(n_twins_);
    const auto found = std::find_if(twins_.begin(), end, [=](const Twin & t) { return t.original == tensor; });
    if (found != end) {
        return *found;
    }
    if (n_twins_ == twins_.size()) {
        twins_.emplace_back();
    }
    Twin & twin   = twins_[n_twins_++];
    twin.original = tensor;
    twin.data.resize(ggml_nbytes(tensor));
    return twin;
}

ggml_tensor LateExperts::over_twin(const ggml_tensor & tensor) {
    const ggml_tensor * base = base_of(&tensor);
    const auto  offset       = static_cast<const std::byte *>(tensor.data) - static_cast<const std::byte *>(base->data);
    ggml_tensor over         = tensor;
    over.view_src            = nullptr;
    over.buffer              = buffer_.get();
    over.data                = twin_of(base).data.data() + offset;
    return over;
}

Status LateExperts::add_blank_rows(InnerGraph & graph, const ExpertNode & node) {
    if (late_.empty() || node.node == view_->nodes.back().node) {
        return {}; // the last one's rows are written before anything reads them
    }
    const auto n_rows = static_cast<int64_t>(late_rows_.size());
    if (!graph.has_room(4, n_rows)) {
        if (Status status = graph.compute(); !status.ok()) {
            return status;
        }
    }
    ggml_tensor * out  = node.node;
    ggml_tensor * rows = graph.indices(late_rows_.data(), n_rows);
    if (rows == nullptr) {
        return Status::error("out of memory for the numbers of " + std::to_string(n_rows) + " rows");
    }
    ggml_tensor * from = graph.tensor_over(GGML_TYPE_F32, out->ne[0], n_rows, 1, buffer_.get(), zeros_.data());
    ggml_tensor * to = graph.tensor_over(GGML_TYPE_F32, out->ne[0], out->ne[1] * out->ne[2], 1, out->buffer, out->data);
    ggml_tensor * set = ggml_set_rows(graph.context(), to, from, rows);
    set->buffer       = out->buffer;
    set->data         = out->data;
    graph.add_made(set);
    return {};
}

bool LateExperts::can_add(const Link & link, uint32_t key_idx) const {
    return !link.is_done[key_idx] && (!link.is_expert() || has_come_[key_idx][link.expert.part_idx]) &&
           std::all_of(link.needs.begin(), link.needs.end(),
                       [&](uint32_t needed) { return links_[needed].is_done[key_idx]; });
}

Status LateExperts::add(InnerGraph & graph, ExpertMatmul & matmul, std::vector<LeasePart> & arrived) {
    for (const LeasePart & part : arrived) {
        has_come_[part.lease_idx][part.part_idx] = true;
    }
    arrived.clear();
    for (Link & link : links_) {
        now_.clear();
        std::copy_if(late_.begin(), late_.end(), std::back_inserter(now_),
                     [&](uint32_t key_idx) { return can_add(link, key_idx); });
        if (now_.empty()) {
            continue;
        }
        if (link.is_expert()) {
            if (Status status = matmul.add_rows(graph, link.expert, *view_, *step_, *weights_, now_); !status.ok()) {
                return status;
            }
        }
        for (const uint32_t key_idx : now_) {
            if (link.is_expert()) {
                arrived.push_back({key_idx, link.expert.part_idx});
            } else if (Status status = add_rows(graph, link, key_idx); !status.ok()) {
                return status;
            }
            link.is_done[key_idx] = true;
        }
    }
    return {};
}

// An ordinary node, for the rows of one expert.
Status LateExperts::add_rows(InnerGraph & graph, const Link & link, uint32_t key_idx) const {
    const auto row_of = [&](const ggml_tensor & t, uint32_t row) {
        const size_t offset = row % view_->n_used() * t.nb[1] + row / view_->n_used() * t.nb[2];
        return graph.tensor_over(GGML_TYPE_F32, t.ne[0], 1, 1, t.buffer, static_cast<std::byte *>(t.data) + offset);
    };
    const int32_t expert_idx = step_->keys()[key_idx].expert_idx;
    for (uint32_t r = 0; r < step_->n_rows(key_idx); r++) {
        if (!graph.has_room(GGML_MAX_SRC + 1, 1)) {
            if (Status status = graph.compute(); !status.ok()) {
                return status;
            }
        }
        const uint32_t row  = step_->rows(key_idx)[r];
        ggml_tensor *  made = row_of(link.node, row);
        made->op            = link.original->op;
        std::memcpy(made->op_params, link.original->op_params, sizeof(made->op_params));
        for (int i = 0; i < GGML_MAX_SRC; i++) {
            ggml_tensor * source = link.original->src[i];
            if (source == nullptr) {
                continue;
            }
            if (!is_of_expert(link.original, source)) {
                source = row_of(link.sources[static_cast<size_t>(i)], row);
            } else if (source == view_->ids && (source = graph.indices(&expert_idx, 1)) == nullptr) {
                return Status::error("out of memory for an expert's number");
            }
            made->src[i] = source;
        }
        graph.add_made(made);
    }
    return {};
}

} // namespace hobbit
