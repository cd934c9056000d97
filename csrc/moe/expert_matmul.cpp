#include "moe/expert_matmul.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace hobbit {

namespace {

// MUL_MAT_ID keeps a row list for every slot, of as many rows as the node has: 8 bytes x slots x rows.
constexpr uint64_t row_list_bytes      = 8;
constexpr uint64_t max_workspace_bytes = 64 << 20;

// Up to this many rows, experts share one product over all slots of their class; above it, each expert's own product is
// as efficient and needs no workspace for slots that are not involved.
constexpr uint32_t max_rows_together = 64;

// ggml has other kernels for more rows of one expert, which round differently. A token uses an expert once.
constexpr int64_t max_kernel_tokens = 7;

constexpr int     tensors_per_product = 10;
constexpr int64_t index_arrays        = 3; // of a product, each with an index for every row
static_assert(kernel_product_tensors <= tensors_per_product);
static_assert(sizeof(kernels::InputBlock) <= kernels::block_weights * sizeof(float)); // scratch has room for floats

bool is_consecutive(const std::vector<int32_t> & v) {
    for (size_t i = 1; i < v.size(); ++i) {
        if (v[i] != v[i - 1] + 1) {
            return false;
        }
    }
    return true;
}

const PartShape & shape_of(const LayerView & view, const ExpertNode & node, Precision precision) {
    return view.model->layers[view.layer_idx].parts[static_cast<int>(precision)][node.part_idx];
}

ggml_tensor * weights_at(InnerGraph & graph, const PartShape & shape, int64_t n, uint64_t stride,
                         const WeightArea & area, uint64_t offset) {
    ggml_tensor * w = graph.tensor_over(shape.type, shape.n_in, shape.n_out, n, area.buffer, area.data + offset);
    w->nb[2]        = stride;
    w->nb[3]        = stride * static_cast<uint64_t>(n);
    return w;
}

// The slots of a class from `first_slot` on, as one tensor of this part of the layer.
ggml_tensor * slots_tensor(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                           const ExpertWeights & weights, Precision precision, int32_t first_slot, int64_t n_slots) {
    const CopyLayouts & layouts    = weights.layouts();
    const CopyLayout &  layout     = layouts.of({view.layer_idx, 0, precision});
    const uint64_t      slot_bytes = layouts.classes[layout.class_idx].slot_bytes;
    return weights_at(graph, shape_of(view, node, precision), n_slots, slot_bytes,
                      weights.slots(static_cast<int32_t>(layout.class_idx)),
                      static_cast<uint64_t>(first_slot) * slot_bytes + layout.parts[node.part_idx].data_offset);
}

} // namespace

bool ExpertMatmul::can_add_whole(const LayerView & view, const LayerStep & step, const ExpertWeights & weights) {
    if (!step.skipped_rows().empty()) {
        return false;
    }
    const int32_t class_idx = weights.slot(0).class_idx;
    for (uint32_t i = 0; i < step.keys().size(); ++i) {
        if (!weights.slot(i) || weights.slot(i).class_idx != class_idx) {
            return false;
        }
    }
    const uint64_t n_rows = static_cast<uint64_t>(view.n_used()) * view.n_tokens();
    return n_rows * weights.n_slots(class_idx) * row_list_bytes <= max_workspace_bytes;
}

bool ExpertMatmul::has_kernel(const LayerView & view, Precision precision) const {
    return view.n_tokens() <= max_kernel_tokens &&
           std::any_of(view.nodes.begin(), view.nodes.end(), [&](const ExpertNode & node) {
               const PartShape & shape = shape_of(view, node, precision);
               return kernel_for(backend_, shape.type, shape.n_in) != nullptr;
           });
}

void ExpertMatmul::clear_rows(const ExpertNode & node, const std::vector<uint32_t> & rows) {
    // Each call waits for the device. All other rows are computed later.
    if (!ggml_backend_buffer_is_host(node.node->buffer) && !rows.empty()) {
        ggml_backend_tensor_memset(node.node, 0, 0, ggml_nbytes(node.node));
        return;
    }
    for (uint32_t row : rows) {
        ggml_backend_tensor_memset(node.node, 0, row * node.node->nb[1], node.node->nb[1]);
    }
}

void ExpertMatmul::add_whole(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                             const ExpertWeights & weights, Precision precision, ggml_tensor * slot_ids) {
    const uint32_t class_idx = weights.layouts().of({view.layer_idx, 0, precision}).class_idx;
    const uint32_t n_slots   = weights.n_slots(static_cast<int32_t>(class_idx));
    graph.add_over(node.node, slots_tensor(graph, node, view, weights, precision, 0, n_slots), slot_ids);
}

void ExpertMatmul::add_in_order(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                                const CopyLayouts & layouts, Precision precision, const WeightArea & first) {
    const CopyLayout & layout     = layouts.of({view.layer_idx, 0, precision});
    const uint64_t     slot_bytes = layouts.classes[layout.class_idx].slot_bytes;
    graph.add_over(node.node,
                   weights_at(graph, shape_of(view, node, precision), layout.n_expert, slot_bytes, first,
                              layout.parts[node.part_idx].data_offset),
                   nullptr);
}

Status ExpertMatmul::make_room(InnerGraph & graph, const ExpertNode & node) {
    const ggml_tensor * input   = node.node->src[1];
    const ggml_tensor * output  = node.node;
    const int64_t       n_rows  = static_cast<int64_t>(rows_.size());
    const size_t        n_bytes = static_cast<size_t>(n_rows * (input->ne[0] + output->ne[0])) * sizeof(float) + 256;
    if (graph.has_room(tensors_per_product, index_arrays * n_rows + kernel_product_extra_values) &&
        n_bytes <= scratch_.n_bytes()) {
        return {};
    }
    if (Status status = graph.compute(); !status.ok()) {
        return status;
    }
    if (!scratch_.reserve(n_bytes)) {
        return Status::error("out of memory: " + std::to_string(n_bytes) + " bytes for the rows of one expert");
    }
    return {};
}

Status ExpertMatmul::add_rows(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                              const LayerStep & step, const ExpertWeights & weights,
                              const std::vector<uint32_t> & key_idxs, uint32_t n_padded) {
    uint32_t n_rows = 0, n_slotted_rows = 0;
    uint64_t largest_bytes = 0;
    for (uint32_t i : key_idxs) {
        n_rows += step.n_rows(i);
        n_slotted_rows += weights.slot(i) ? step.n_rows(i) : 0;
        largest_bytes = std::max(largest_bytes, weights.layouts().of(weights.key(i)).parts[node.part_idx].n_bytes);
    }
    const bool are_small =
        largest_bytes <= weights.max_bytes_together() && index_arrays * int64_t{n_rows} <= InnerGraph::max_indices / 2;
    const bool slots_together = are_small || n_slotted_rows <= max_rows_together;
    for (uint32_t i : key_idxs) {
        if (weights.slot(i) ? slots_together : are_small) {
            continue;
        }
        if (Status status = add_one_by_one(graph, node, view, step, weights, i); !status.ok()) {
            return status;
        }
    }
    for (int32_t class_idx = 0; slots_together && class_idx < static_cast<int32_t>(weights.layouts().classes.size());
         ++class_idx) {
        if (Status status = add_slots(graph, node, view, step, weights, key_idxs, class_idx); !status.ok()) {
            return status;
        }
    }
    for (const Precision precision : {Precision::hi, Precision::lo}) {
        if (Status status =
                are_small ? add_buffers(graph, node, view, step, weights, key_idxs, precision, n_padded) : Status{};
            !status.ok()) {
            return status;
        }
    }
    return {};
}

Status ExpertMatmul::add_one_by_one(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                                    const LayerStep & step, const ExpertWeights & weights, uint32_t key_idx) {
    rows_.assign(step.rows(key_idx), step.rows(key_idx) + step.n_rows(key_idx));
    ids_.assign(rows_.size(), 0);
    const auto make_weights = [&] {
        const Precision precision = weights.key(key_idx).precision;
        if (const SlotRef slot = weights.slot(key_idx); slot) {
            return slots_tensor(graph, node, view, weights, precision, slot.slot_idx, 1);
        }
        const PartShape & shape = shape_of(view, node, precision);
        const uint64_t    bytes = ggml_row_size(shape.type, shape.n_in) * static_cast<uint64_t>(shape.n_out);
        return weights_at(graph, shape, 1, bytes, weights.part(key_idx, node.part_idx), 0);
    };
    return add_product(graph, node, make_weights, 1);
}

void ExpertMatmul::append_rows(const LayerStep & step, uint32_t key_idx, int32_t id) {
    rows_.insert(rows_.end(), step.rows(key_idx), step.rows(key_idx) + step.n_rows(key_idx));
    ids_.insert(ids_.end(), step.n_rows(key_idx), id);
}

// Of the experts in slots of a class, which has one precision.
Status ExpertMatmul::add_slots(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                               const LayerStep & step, const ExpertWeights & weights,
                               const std::vector<uint32_t> & key_idxs, int32_t class_idx) {
    Precision precision = Precision::hi;
    rows_.clear();
    ids_.clear();
    for (uint32_t i : key_idxs) {
        if (weights.slot(i).class_idx == class_idx) {
            precision = weights.key(i).precision;
            append_rows(step, i, weights.slot(i).slot_idx);
        }
    }
    return add_products(graph, node, [&] {
        return slots_tensor(graph, node, view, weights, precision, 0, weights.n_slots(class_idx));
    });
}

// Of the experts without a slot, in one precision.
Status ExpertMatmul::add_buffers(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                                 const LayerStep & step, const ExpertWeights & weights,
                                 const std::vector<uint32_t> & key_idxs, Precision precision, uint32_t n_padded) {
    BufferRow buffers;
    rows_.clear();
    ids_.clear();
    for (uint32_t i : key_idxs) {
        if (!weights.slot(i) && weights.key(i).precision == precision) {
            append_rows(step, i, weights.buffer(i, node.part_idx));
            buffers = weights.buffers(i, node.part_idx);
        }
    }
    pad_rows(n_padded);
    return add_products(graph, node, [&] {
        return weights_at(graph, shape_of(view, node, precision), buffers.n_buffers, buffers.stride, buffers.area, 0);
    });
}

void ExpertMatmul::pad_rows(uint32_t n_padded) {
    if (!rows_.empty() && rows_.size() < n_padded) {
        rows_.resize(n_padded, rows_.back());
        ids_.resize(n_padded, ids_.back());
    }
}

Status ExpertMatmul::add_slot_rows(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                                   const ExpertWeights & weights, Precision precision,
                                   const std::vector<uint32_t> & rows, const std::vector<int32_t> & slot_idxs,
                                   uint32_t n_padded) {
    rows_ = rows;
    ids_  = slot_idxs;
    pad_rows(n_padded);
    const auto class_idx = static_cast<int32_t>(weights.layouts().of({view.layer_idx, 0, precision}).class_idx);
    return add_products(graph, node, [&] {
        return slots_tensor(graph, node, view, weights, precision, 0, weights.n_slots(class_idx));
    });
}

// A GPU's kernel goes through tiles of as many rows as there are tokens, for each of all the slots. So the rows, which
// are in the order of experts, are dealt out to as few tokens as can be, each with rows of several experts: as many as
// the expert with the most rows has, for a token uses an expert once. What is left over is a product of its own.
Status ExpertMatmul::add_products(InnerGraph & graph, const ExpertNode & node, const MakeWeights & make_weights) {
    const auto n_rows = static_cast<uint32_t>(rows_.size());
    if (n_rows == 0) {
        return {};
    }
    // As tokens of their own its rows would take a GPU's kernel for several, which adds up in another order.
    if (node.node->ne[2] == 1) {
        return add_product(graph, node, make_weights, n_rows);
    }
    uint32_t n_tokens = 0; // the most rows of one expert
    for (uint32_t i = 0, first = 0; i < n_rows; i++) {
        first    = ids_[i] == ids_[first] ? first : i;
        n_tokens = std::max(n_tokens, i - first + 1);
    }
    const uint32_t n_used = n_rows / n_tokens;
    if (n_rows <= max_rows_together || n_used == 1) {
        return add_product(graph, node, make_weights, 1);
    }
    std::vector<uint32_t> left_rows(rows_.begin() + n_used * n_tokens, rows_.end());
    std::vector<int32_t>  left_ids(ids_.begin() + n_used * n_tokens, ids_.end());
    std::vector<uint32_t> rows(size_t{n_used} * n_tokens);
    std::vector<int32_t>  ids(rows.size());
    for (uint32_t token = 0; token < n_tokens; token++) {
        for (uint32_t i = 0; i < n_used; i++) {
            rows[size_t{token} * n_used + i] = rows_[size_t{i} * n_tokens + token];
            ids[size_t{token} * n_used + i]  = ids_[size_t{i} * n_tokens + token];
        }
    }
    rows_.swap(rows);
    ids_.swap(ids);
    const Status status = add_product(graph, node, make_weights, n_used);
    if (!status.ok() || left_rows.empty()) {
        return status;
    }
    rows_.swap(left_rows);
    ids_.swap(left_ids);
    return add_product(graph, node, make_weights, 1);
}

Status ExpertMatmul::add_product(InnerGraph & graph, const ExpertNode & node, const MakeWeights & make_weights,
                                 uint32_t n_each) {
    if (Status status = make_room(graph, node); !status.ok()) {
        return status;
    }
    ggml_tensor *  weights = make_weights(); // after the run that had to make room, which ends the tensors before it
    ggml_context * ctx     = graph.context();
    ggml_tensor *  input   = node.node->src[1]; // [n_in, n_used or 1, n_tokens]
    ggml_tensor *  output  = node.node;         // [n_out, n_used, n_tokens]
    const int64_t  n_in = input->ne[0], n_out = output->ne[0];
    const int64_t  n_used = output->ne[1], n_tokens = output->ne[2];
    const int64_t  n_rows    = static_cast<int64_t>(rows_.size());
    const bool     broadcast = input->ne[1] == 1; // all experts of a token read the same row
    const size_t   in_stride = broadcast ? input->nb[2] : input->nb[1];

    if (input->type == GGML_TYPE_Q8_0) { // HostProducts: as the device quantised it
        const auto & kernel = *mmvq_kernel_for(weights->type, n_in);
        assert(kernel.input_bytes <= static_cast<size_t>(kernel.input_weights) * sizeof(float)); // as scratch has room
        add_by_kernel(graph, node, kernel, weights);
        return {};
    }
    if (input->type != GGML_TYPE_F32 || input->nb[0] != sizeof(float) || !ggml_is_contiguous(output) ||
        (!broadcast && n_tokens > 1 && input->nb[2] != in_stride * static_cast<size_t>(n_used))) {
        return Status::error(std::string("cannot gather rows for ") + node.node->name + ": unexpected memory layout");
    }

    if (const auto * kernel = kernel_for(backend_, weights->type, n_in); kernel && n_tokens <= max_kernel_tokens) {
        add_by_kernel(graph, node, *kernel, weights);
        return {};
    }

    // One token's shared input row serves every expert as it is.
    const bool    shared_row = broadcast && n_tokens == 1;
    ggml_tensor * gathered;
    if (shared_row) {
        gathered = graph.tensor_over(GGML_TYPE_F32, n_in, 1, 1, input->buffer, input->data);
    } else {
        indices_.resize(rows_.size());
        for (size_t i = 0; i < rows_.size(); ++i) {
            indices_[i] = static_cast<int32_t>(broadcast ? rows_[i] / n_used : rows_[i]);
        }
        gathered = graph.tensor_over(GGML_TYPE_F32, n_in, n_each, n_rows / n_each, scratch_.buffer(), scratch_.data());
        if (is_consecutive(indices_) && in_stride == static_cast<size_t>(n_in) * sizeof(float)) {
            gathered->buffer = input->buffer;
            gathered->data   = static_cast<char *>(input->data) + static_cast<size_t>(indices_[0]) * in_stride;
        } else {
            ggml_tensor * rows = graph.tensor_over(GGML_TYPE_F32, n_in, (broadcast ? 1 : n_used) * n_tokens, 1,
                                                   input->buffer, input->data);
            rows->nb[1]        = in_stride;
            rows->nb[2] = rows->nb[3] = in_stride * static_cast<size_t>(rows->ne[1]);
            ggml_tensor * get         = ggml_get_rows(ctx, rows, graph.indices(indices_.data(), n_rows));
            get->buffer               = scratch_.buffer();
            get->data                 = scratch_.data();
            graph.add_made(get);
        }
    }

    ggml_tensor * ids = graph.indices(ids_.data(), n_rows);
    if (!shared_row) {
        ids->ne[0] = n_each; // [n_each, n_rows / n_each]: experts of a token that was made of gathered rows
        ids->ne[1] = n_rows / n_each;
        ids->nb[1] = n_each * sizeof(int32_t);
        ids->nb[2] = ids->nb[3] = static_cast<size_t>(n_rows) * sizeof(int32_t);
    }
    ggml_tensor * product = ggml_mul_mat_id(ctx, weights, gathered, ids);
    std::memcpy(product->op_params, output->op_params, sizeof(product->op_params));
    product->buffer = scratch_.buffer();
    product->data =
        scratch_.data() + static_cast<size_t>(align_up(static_cast<uint64_t>(n_rows * n_in) * sizeof(float), 64));

    indices_.assign(rows_.begin(), rows_.end());
    if (is_consecutive(indices_)) {
        product->buffer = output->buffer;
        product->data   = static_cast<char *>(output->data) + static_cast<size_t>(indices_[0]) * output->nb[1];
        graph.add_made(product);
        return {};
    }
    graph.add_made(product);
    ggml_tensor * from = graph.tensor_over(GGML_TYPE_F32, n_out, n_rows, 1, product->buffer, product->data);
    ggml_tensor * to   = graph.tensor_over(GGML_TYPE_F32, n_out, n_used * n_tokens, 1, output->buffer, output->data);
    ggml_tensor * set  = ggml_set_rows(ctx, to, from, graph.indices(indices_.data(), n_rows));
    set->buffer        = output->buffer;
    set->data          = output->data;
    graph.add_made(set);
    return {};
}

// Reads the input's rows and writes the output's where they are.
template <typename Kernel>
void ExpertMatmul::add_by_kernel(InnerGraph & graph, const ExpertNode & node, const Kernel & kernel,
                                 ggml_tensor * weights) {
    const ggml_tensor * input  = node.node->src[1];
    const ggml_tensor * output = node.node;
    const int64_t       n_used = output->ne[1], n_tokens = output->ne[2];
    const bool          broadcast = input->ne[1] == 1;

    output_rows_.assign(rows_.begin(), rows_.end());
    indices_.resize(broadcast && n_tokens == 1 ? 1 : rows_.size()); // one input for all, or each row's
    for (size_t i = 0; i < indices_.size(); ++i) {
        indices_[i] = static_cast<int32_t>(broadcast ? rows_[i] / n_used : rows_[i]);
    }
    ggml_tensor * inputs = graph.tensor_over(input->type, input->ne[0], (broadcast ? 1 : n_used) * n_tokens, 1,
                                             input->buffer, input->data);
    inputs->nb[1]        = broadcast ? input->nb[2] : input->nb[1];
    ggml_tensor * outputs =
        graph.tensor_over(GGML_TYPE_F32, output->ne[0], n_used * n_tokens, 1, output->buffer, output->data);
    const auto at = align_up(reinterpret_cast<uintptr_t>(scratch_.data()), 64);
    add_kernel_product(graph, kernel, weights, inputs, outputs, {ids_, output_rows_, indices_}, scratch_.buffer(),
                       reinterpret_cast<char *>(at));
}

} // namespace hobbit
