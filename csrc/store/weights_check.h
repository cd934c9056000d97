// What ggml's parser lets pass and llama.cpp would end the process for later, while it computes.
#pragma once

#include "store/gguf_model.h"

namespace hobbit {

// Throws StoreError for numbers and types that no model has.
void check_computable(const GgufModel & model);

} // namespace hobbit
