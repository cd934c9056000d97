#include "moe/quantized_inputs.h"

#include <cstring>

namespace hobbit {

namespace {

constexpr size_t scratch_bytes = 1 << 20; // a token's rows
constexpr size_t row_align     = 256;

} // namespace

void QuantizedInputs::clear() {
    n_twins_ = 0;
    n_bytes_ = 0;
}

const ggml_tensor * QuantizedInputs::of(const ggml_tensor * input) const {
    for (size_t i = 0; i < n_twins_; i++) {
        if (twins_[i].input == input) {
            return &twins_[i].quants;
        }
    }
    return nullptr;
}

const ggml_tensor * QuantizedInputs::add(InnerGraph & graph, const ggml_tensor * input) {
    if (const ggml_tensor * found = of(input)) {
        return found;
    }
    const size_t n_bytes =
        ggml_row_size(GGML_TYPE_Q8_0, input->ne[0]) * static_cast<size_t>(input->ne[1] * input->ne[2] * input->ne[3]);
    if (n_bytes_ + n_bytes > scratch_bytes || !scratch_.reserve(scratch_bytes)) {
        return nullptr;
    }
    if (n_twins_ == twins_.size()) {
        twins_.emplace_back();
    }
    Twin & twin = twins_[n_twins_++];
    twin.input  = input;

    // As ggml_cast() makes it.
    ggml_tensor & quants = twin.quants;
    quants               = ggml_tensor{};
    quants.type          = GGML_TYPE_Q8_0;
    std::memcpy(quants.ne, input->ne, sizeof(quants.ne));
    quants.nb[0]  = ggml_type_size(quants.type);
    quants.nb[1]  = ggml_row_size(quants.type, quants.ne[0]);
    quants.nb[2]  = quants.nb[1] * static_cast<size_t>(quants.ne[1]);
    quants.nb[3]  = quants.nb[2] * static_cast<size_t>(quants.ne[2]);
    quants.op     = GGML_OP_CPY;
    quants.src[0] = const_cast<ggml_tensor *>(input); // read only
    quants.src[1] = &quants;
    quants.buffer = scratch_.buffer();
    quants.data   = scratch_.data() + n_bytes_;
    n_bytes_ += (n_bytes + row_align - 1) / row_align * row_align;
    graph.add_made(&quants);
    return &quants;
}

} // namespace hobbit
