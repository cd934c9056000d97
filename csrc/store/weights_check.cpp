#include "store/weights_check.h"

#include "store/store_error.h"
#include "store/text.h"

#include <limits>
#include <string_view>

namespace hobbit {
namespace {

// It goes into keys and messages. None at all is for llama.cpp to refuse.
void check_architecture(const GgufModel & model) {
    for (const char c : model.get_string("general.architecture")) {
        if (c <= ' ' || c > '~') {
            throw StoreError(quoted(model.paths().front()) +
                             " has an architecture that is no word of ASCII: download it again.");
        }
    }
}

// Kernels assert that what they add to a variance is not negative.
void check_epsilons(const GgufModel & model) {
    const gguf_context * metadata = model.metadata();
    for (int64_t i = 0; i < gguf_get_n_kv(metadata); ++i) {
        const std::string_view key = gguf_get_key(metadata, i);
        if (!ends_with(key, "epsilon") || gguf_get_kv_type(metadata, i) != GGUF_TYPE_FLOAT32) {
            continue;
        }
        const float value = gguf_get_val_f32(metadata, i);
        if (!(value >= 0.0f && value <= std::numeric_limits<float>::max())) {
            throw StoreError(quoted(model.paths().front()) + " has " + std::to_string(value) + " for " +
                             std::string(key) + ", expected a number of 0 or more: download it again.");
        }
    }
}

// Lengths are 32-bit integers with a sign from here on.
void check_context_length(const GgufModel & model) {
    const std::string key   = model.get_string("general.architecture") + ".context_length";
    const int64_t     value = model.get_int(key, 1);
    if (value < 1 || value > std::numeric_limits<int32_t>::max()) {
        throw StoreError(quoted(model.paths().front()) + " has " + std::to_string(value) + " for " + key +
                         ", expected 1 to 2147483647: download it again.");
    }
}

void check_types(const GgufModel & model) {
    for (const TensorInfo & tensor : model.tensors()) {
        const std::string where = quoted(model.paths()[tensor.extent.file_idx]) + " has tensor '" + tensor.name +
                                  "' of type " + ggml_type_name(tensor.type);
        // Added to and multiplied with activations, which the CPU's kernels do in F32 alone.
        const bool is_plain = ends_with(tensor.name, ".bias") || ends_with(tensor.name, "norm.weight");
        if (is_plain && tensor.type != GGML_TYPE_F32) {
            throw StoreError(where + ", expected F32: download it again.");
        }
        const bool is_index_table = tensor.name.find("tid2eid") != std::string::npos; // experts by token, deepseek4
        switch (tensor.type) {
        case GGML_TYPE_I32:
            if (is_index_table) {
                break;
            }
            [[fallthrough]];
        case GGML_TYPE_I8:
        case GGML_TYPE_I16:
        case GGML_TYPE_I64:
        case GGML_TYPE_F64:
            throw StoreError(where + ", in which no weights are stored: download it again.");
        default:
            break;
        }
    }
}

} // namespace

void check_computable(const GgufModel & model) {
    check_architecture(model);
    check_epsilons(model);
    check_context_length(model);
    check_types(model);
}

} // namespace hobbit
