// The part of llama.cpp's graph that computes one layer's experts.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"
#include "moe/model_experts.h"

#include <vector>

namespace hobbit {

// A MUL_MAT_ID over an expert tensor: dst [n_out, n_used, n_tokens], src[1] [n_in, n_used or 1, n_tokens].
struct ExpertNode {
    int           node_idx = 0;
    uint32_t      part_idx = 0;
    ggml_tensor * node     = nullptr;
};

struct LayerView {
    ModelExperts *          model     = nullptr;
    uint16_t                layer_idx = 0;
    std::vector<ExpertNode> nodes;             // in graph order
    std::vector<uint32_t>   part_order;        // all parts: those of `nodes` in the order of their use, then the others
    ggml_tensor *           ids     = nullptr; // I32 [n_used, n_tokens], rows may be strided
    ggml_tensor *           weights = nullptr; // F32 [1, n_used, n_tokens], what outputs are multiplied by; or nullptr
    int                     end_idx = 0;       // one past the last expert node

    uint32_t n_used() const { return static_cast<uint32_t>(ids->ne[0]); }
    uint32_t n_tokens() const { return static_cast<uint32_t>(ids->ne[1]); }
};

// Says whether a buffer is one that only holds expert tensors; given by the device, which makes those buffers.
using IsExpertBuffer = bool (*)(ggml_backend_buffer_t buffer);

// The expert tensor a node multiplies by, or nullptr if it is an ordinary node.
const ExpertTensor * expert_tensor_of(const ggml_tensor * node, IsExpertBuffer is_expert_buffer);

// Collects into `view` the layer whose first expert node is `first_idx`.
void find_layer(ggml_cgraph * graph, int first_idx, IsExpertBuffer is_expert_buffer, LayerView & view);

} // namespace hobbit
