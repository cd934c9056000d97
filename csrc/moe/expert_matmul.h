// Expert matrix products as nodes for the inner device, over slots and stream buffers instead of llama.cpp's tensor.
//
// The inner device's own MUL_MAT_ID does the arithmetic. All rows of an expert go through one node, so each expert sees
// the batch it would see in stock llama.cpp: kernels that depend on the number of rows are chosen alike, and the
// results are bit-identical.
#pragma once

#include "moe/inner_graph.h"
#include "moe/layer_step.h"

#include <vector>

namespace hobbit {

class ExpertMatmul {
  public:
    explicit ExpertMatmul(ggml_backend_t backend);

    // Whether make_whole() can take the node: every expert complete and in a slot of one class, and a workspace, which
    // grows with slots x rows, that stays small.
    static bool can_make_whole(const LayerView & view, LayerStep & step);

    // The whole node over the slots, written where llama.cpp expects it. REQUIRES: can_make_whole(); room in `graph`.
    ggml_tensor * make_whole(InnerGraph & graph, const ExpertNode & node, const LayerView & view, LayerStep & step,
                             ggml_tensor * slot_ids);

    // Adds the rows of some experts: gathered from the node's input, multiplied, scattered into its output. Computes
    // `graph` on the way if it is full. REQUIRES: the part of every lease is ready; what computes the node's input was
    // computed or added before.
    Status add_rows(InnerGraph & graph, const ExpertNode & node, const LayerView & view, LayerStep & step,
                    const std::vector<uint32_t> & lease_idxs);

    // Zeroes rows of the node's output that no expert computes: what is there may be NaN, and NaN times a gate weight
    // of zero is NaN. REQUIRES: what used the memory before was computed.
    static void clear_rows(const ExpertNode & node, const std::vector<uint32_t> & rows);

  private:
    Status add_one_by_one(InnerGraph & graph, const ExpertNode & node, const LayerView & view, LayerStep & step,
                          uint32_t lease_idx);
    Status add_together(InnerGraph & graph, const ExpertNode & node, const LayerView & view, LayerStep & step,
                        const std::vector<uint32_t> & lease_idxs, int32_t class_idx);
    Status make_room(InnerGraph & graph, const ExpertNode & node);

    ggml_tensor * weights_at(InnerGraph & graph, const PartShape & shape, int64_t n, uint64_t stride,
                             const std::byte * data);
    ggml_tensor * slots_tensor(InnerGraph & graph, const ExpertNode & node, const LayerView & view,
                               const LoadStep::Lease & lease);

    // One product for rows_ with experts ids_ of `weights`.
    Status add_product(InnerGraph & graph, const ExpertNode & node, ggml_tensor * weights);

    GgmlBufferPtr         host_buffer_; // stands for the arenas: kernels look at a weight's buffer type only
    DeviceScratch         scratch_;     // gathered input and unscattered output of one product
    std::vector<uint32_t> rows_;
    std::vector<int32_t>  ids_;
    std::vector<int32_t>  indices_;
};

} // namespace hobbit
