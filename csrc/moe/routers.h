// The routers of a graph, found by llama.cpp's names.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <vector>

namespace hobbit {

struct Router {
    const ggml_tensor * logits         = nullptr; // MUL_MAT(weights [n_embd, n_expert], input [n_embd, n_tokens])
    ggml_tensor *       norm           = nullptr; // F32 [n_embd], what its normalised input was multiplied by
    const ggml_tensor * bias           = nullptr; // F32 [n_expert], added to the logits
    const ggml_tensor * selection_bias = nullptr; // ... to the probabilities that select, not to the weights
    bool                is_sigmoid     = false;
    int                 layer_idx      = 0;

    const ggml_tensor * weights() const { return logits->src[0]; }
};

// Those that route at most so many tokens, in graph order.
void find_routers(ggml_cgraph * graph, int64_t max_tokens, std::vector<Router> & routers);

// A router's weights or norm as F32, on the host.
std::vector<float> read_floats(const ggml_tensor * tensor);

// Whether every router's input is a normalised residual times a vector of weights that can be divided out again.
bool can_divide_norms(const std::vector<Router> & routers);

} // namespace hobbit
