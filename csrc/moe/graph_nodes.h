// What the nodes of llama.cpp's graph are to those who walk it.
#pragma once

#include "ggml.h"

namespace hobbit {

// Computes nothing: a view on another node's memory.
inline bool is_no_op(const ggml_tensor * node) {
    switch (node->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    default:
        return false;
    }
}

} // namespace hobbit
