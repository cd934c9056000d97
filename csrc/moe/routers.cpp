#include "moe/routers.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace hobbit {

namespace {

// llama.cpp names a router's stages ffn_moe_<stage>-<layer>. Returns the layer, or -1.
int stage_layer(const ggml_tensor * node, const char * stage) {
    static constexpr char prefix[] = "ffn_moe_";
    const size_t          n        = std::strlen(stage);
    const char *          at       = node->name + sizeof(prefix) - 1;
    if (std::strncmp(node->name, prefix, sizeof(prefix) - 1) != 0 || std::strncmp(at, stage, n) != 0 || at[n] != '-') {
        return -1;
    }
    return std::atoi(at + n + 1);
}

} // namespace

void find_routers(ggml_cgraph * graph, int64_t max_tokens, std::vector<Router> & routers) {
    routers.clear();
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_MUL_MAT) {
            // Where the logits are the probabilities, the later name is the one that stays.
            const int layer_idx = std::max(stage_layer(node, "logits"), stage_layer(node, "probs"));
            if (layer_idx >= 0 && node->ne[1] <= max_tokens && node->ne[2] == 1) {
                Router router;
                router.logits       = node;
                router.layer_idx    = layer_idx;
                ggml_tensor * input = node->src[1];
                if (input->op == GGML_OP_MUL && input->src[1]->type == GGML_TYPE_F32 &&
                    ggml_nelements(input->src[1]) == input->ne[0]) {
                    router.norm = input->src[1];
                }
                routers.push_back(router);
            }
        } else if (!routers.empty()) {
            Router & router = routers.back();
            if (node->op == GGML_OP_ADD && node->src[0] == router.logits && node->src[1]->type == GGML_TYPE_F32) {
                router.bias = node->src[1];
            } else if (stage_layer(node, "probs") == router.layer_idx && node->op == GGML_OP_UNARY) {
                router.is_sigmoid = ggml_get_unary_op(node) == GGML_UNARY_OP_SIGMOID;
            } else if (stage_layer(node, "probs_biased") == router.layer_idx && node->op == GGML_OP_ADD &&
                       node->src[1]->type == GGML_TYPE_F32) {
                router.selection_bias = node->src[1];
            }
        }
    }
}

std::vector<float> read_floats(const ggml_tensor * tensor) {
    std::vector<char>  raw(ggml_nbytes(tensor));
    std::vector<float> values(static_cast<size_t>(ggml_nelements(tensor)));
    ggml_backend_tensor_get(tensor, raw.data(), 0, raw.size());
    if (tensor->type == GGML_TYPE_F32) {
        std::memcpy(values.data(), raw.data(), raw.size());
    } else {
        ggml_get_type_traits(tensor->type)->to_float(raw.data(), values.data(), ggml_nelements(tensor));
    }
    return values;
}

bool can_divide_norms(const std::vector<Router> & routers) {
    return std::all_of(routers.begin(), routers.end(), [](const Router & router) {
        if (router.norm == nullptr || router.weights()->type != GGML_TYPE_F32) {
            return false;
        }
        const std::vector<float> norm = read_floats(router.norm);
        return std::all_of(norm.begin(), norm.end(), [](float x) { return std::abs(x) > 1e-6f; });
    });
}

} // namespace hobbit
