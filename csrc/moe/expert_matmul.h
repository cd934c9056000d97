// Expert matrix products as nodes for the inner device, over slots and stream buffers instead of llama.cpp's tensor.
//
// The inner device's own MUL_MAT_ID does the arithmetic. All rows of an expert go through one node, so each expert sees
// the batch it would see in stock llama.cpp: kernels that depend on the number of rows are chosen alike, and the
// results are bit-identical. Where there is a kernel of ours (kernel_nodes.h) it multiplies a few rows, to the same
// bits.
#pragma once

#include "moe/expert_weights.h"
#include "moe/inner_graph.h"
#include "moe/kernel_nodes.h"
#include "moe/layer_step.h"

#include <functional>
#include <vector>

namespace hobbit {

class ExpertMatmul {
  public:
    explicit ExpertMatmul(ggml_backend_t backend) : backend_(backend), scratch_(backend) {}

    // Whether add_whole() can take the layer: no expert is skipped, all are in slots of one class, and a workspace,
    // which grows with slots x rows, stays small.
    static bool can_add_whole(const LayerView & view, const LayerStep & step, const ExpertWeights & weights);

    // Whether add_rows() multiplies the layer's copies of a precision by a kernel of ours, which is faster than the
    // node.
    bool has_kernel(const LayerView & view, Precision precision) const;

    // The whole node over the slots of its layer's class, with `slot_ids` instead of its own ids. REQUIRES: room in
    // `graph`.
    static void add_whole(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                          const ExpertWeights & weights, Precision precision, ggml_tensor * slot_ids);
    // The whole node, with its own ids, over slots that hold the layer's experts in order: as many as the layer has,
    // back to back from `first` on. Those that the node does not select need not be there.
    static void add_in_order(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                             const CopyLayouts & layouts, Precision precision, const WeightArea & first);

    // Adds the rows of some experts: gathered from the node's input, multiplied, scattered into its output. Computes
    // `graph` on the way if it is full. REQUIRES: the part of every expert is there; what computes the node's input was
    // computed or added before.
    // With `n_padded`, rows in buffers are multiplied more than once until they are as many: then a GPU meets the same
    // nodes in every token.
    Status add_rows(InnerGraph & graph, const ExpertNode & node, const LayerView & view, const LayerStep & step,
                    const ExpertWeights & weights, const std::vector<uint32_t> & key_idxs, uint32_t n_padded = 0);

    // The same for rows that the caller names, over the slots of a class, `slot_idxs` [row].
    Status add_slot_rows(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                         const ExpertWeights & weights, Precision precision, const std::vector<uint32_t> & rows,
                         const std::vector<int32_t> & slot_idxs, uint32_t n_padded);

    // Zeroes rows of the node's output that no expert computes: what is there may be NaN, and NaN times a gate weight
    // of zero is NaN. May zero others. REQUIRES: what used the memory before was computed, no row was computed yet.
    static void clear_rows(const ExpertNode & node, const std::vector<uint32_t> & rows);

  private:
    Status add_one_by_one(InnerGraph & graph, const ExpertNode & node, const LayerView & view, const LayerStep & step,
                          const ExpertWeights & weights, uint32_t key_idx);
    Status add_slots(InnerGraph & graph, const ExpertNode & node, const LayerView & view, const LayerStep & step,
                     const ExpertWeights & weights, const std::vector<uint32_t> & key_idxs, int32_t class_idx);
    Status add_buffers(InnerGraph & graph, const ExpertNode & node, const LayerView & view, const LayerStep & step,
                       const ExpertWeights & weights, const std::vector<uint32_t> & key_idxs, Precision precision,
                       uint32_t n_padded);
    void   append_rows(const LayerStep & step, uint32_t key_idx, int32_t id);
    void   pad_rows(uint32_t n_padded);
    template <typename Kernel>
    void   add_by_kernel(InnerGraph & graph, const ExpertNode & node, const Kernel & kernel, ggml_tensor * weights);
    Status make_room(InnerGraph & graph, const ExpertNode & node);

    // Makes the tensor of a product's weights.
    using MakeWeights = std::function<ggml_tensor *()>;
    // For rows_, with experts ids_, in the order of experts.
    Status add_products(InnerGraph & graph, const ExpertNode & node, const MakeWeights & make_weights);
    // One product for rows_ with experts ids_: `n_each` of them are a token, and differ in their expert.
    Status add_product(InnerGraph & graph, const ExpertNode & node, const MakeWeights & make_weights, uint32_t n_each);

    ggml_backend_t        backend_;
    DeviceScratch         scratch_; // gathered input and unscattered output of one product
    std::vector<uint32_t> rows_;
    std::vector<int32_t>  ids_;
    std::vector<int32_t>  indices_;
    std::vector<int32_t>  output_rows_;
};

} // namespace hobbit
