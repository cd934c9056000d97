#include "moe/layer_view.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace hobbit {

namespace {

// llama.cpp names every stage of the gate weights ffn_moe_weights*-<layer>; the last one before the experts are used is
// what their outputs are multiplied by.
ggml_tensor * find_weights(ggml_cgraph * graph, int before_idx, const LayerView & view) {
    static constexpr char prefix[]   = "ffn_moe_weights";
    static constexpr int  max_lookup = 64; // a router has about fifteen nodes
    for (int i = before_idx - 1; i >= 0 && i >= before_idx - max_lookup; --i) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (std::strncmp(node->name, prefix, sizeof(prefix) - 1) != 0) {
            continue;
        }
        const bool   fits = node->type == GGML_TYPE_F32 && ggml_is_contiguous(node) &&
                            ggml_nelements(node) == static_cast<int64_t>(view.n_used()) * view.n_tokens();
        const char * dash = std::strrchr(node->name, '-');
        if (fits && dash != nullptr && std::atoi(dash + 1) == view.layer_idx) {
            return node;
        }
    }
    return nullptr;
}

} // namespace

const ExpertTensor * expert_tensor_of(const ggml_tensor * node, IsExpertBuffer is_expert_buffer) {
    if (node->op != GGML_OP_MUL_MAT_ID) {
        return nullptr;
    }
    const ggml_tensor * weight = node->src[0];
    if (weight->buffer == nullptr || !is_expert_buffer(weight->buffer)) {
        return nullptr;
    }
    return static_cast<const ExpertTensor *>(weight->extra);
}

void find_layer(ggml_cgraph * graph, int first_idx, IsExpertBuffer is_expert_buffer, LayerView & view) {
    const int            n_nodes = ggml_graph_n_nodes(graph);
    const ExpertTensor * first   = expert_tensor_of(ggml_graph_node(graph, first_idx), is_expert_buffer);
    view.model                   = first->model;
    view.layer_idx               = first->layer_idx;
    view.ids                     = ggml_graph_node(graph, first_idx)->src[2];
    view.nodes.clear();

    const size_t n_parts = first->model->layers[first->layer_idx].parts[0].size();
    for (int i = first_idx; i < n_nodes && view.nodes.size() < n_parts; ++i) {
        ggml_tensor *        node   = ggml_graph_node(graph, i);
        const ExpertTensor * expert = expert_tensor_of(node, is_expert_buffer);
        if (expert == nullptr) {
            continue;
        }
        const bool seen = std::any_of(view.nodes.begin(), view.nodes.end(),
                                      [&](const ExpertNode & n) { return n.part_idx == expert->part_idx; });
        if (seen || expert->model != view.model || expert->layer_idx != view.layer_idx || node->src[2] != view.ids) {
            break; // the rest is a step of its own
        }
        view.nodes.push_back({i, expert->part_idx, node});
    }
    view.part_order.clear();
    for (const ExpertNode & n : view.nodes) {
        view.part_order.push_back(n.part_idx);
    }
    for (uint32_t part_idx = 0; part_idx < n_parts; ++part_idx) {
        if (std::find(view.part_order.begin(), view.part_order.end(), part_idx) == view.part_order.end()) {
            view.part_order.push_back(part_idx);
        }
    }
    view.end_idx = view.nodes.back().node_idx + 1;
    view.weights = find_weights(graph, first_idx, view);
}

} // namespace hobbit
