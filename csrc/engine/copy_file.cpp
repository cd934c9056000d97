#include "engine/copy_file.h"

#include "store/store_error.h"

#include <algorithm>
#include <cstdint>

namespace hobbit {

namespace {

std::string shape_text(const ExpertMatrix & m, uint32_t n_expert) {
    return "[" + std::to_string(m.n_in) + ", " + std::to_string(m.n_out) + ", " + std::to_string(n_expert) + "]";
}

} // namespace

void CopyFile::check(const GgufModel & of_model, const ExpertStore & experts) const {
    const auto refuse = [&](const std::string & what, const std::string & expected, const std::string & found) {
        throw StoreError(model.paths()[0] + " is not a " + precision + " copy of " + of_model.paths()[0] + ": " + what +
                         ", expected " + expected + ", found " + found + "; make one with 'hobbit pack'");
    };
    for (const ExpertLayer & layer : experts.layers()) {
        const ExpertLayer * copy = store.find_layer(layer.layer_idx);
        if (copy == nullptr) {
            refuse("layer " + std::to_string(layer.layer_idx), std::to_string(layer.n_expert) + " experts", "none");
        }
        if (copy->matrices.size() != layer.matrices.size()) {
            refuse("layer " + std::to_string(layer.layer_idx), std::to_string(layer.matrices.size()) + " matrices",
                   std::to_string(copy->matrices.size()));
        }
        for (size_t i = 0; i < layer.matrices.size(); ++i) {
            const ExpertMatrix & m = layer.matrices[i];
            const ExpertMatrix & c = copy->matrices[i];
            if (m.tensor_name != c.tensor_name) {
                refuse("layer " + std::to_string(layer.layer_idx), m.tensor_name, c.tensor_name);
            }
            if (m.n_in != c.n_in || m.n_out != c.n_out || layer.n_expert != copy->n_expert) {
                refuse("tensor " + m.tensor_name, shape_text(m, layer.n_expert), shape_text(c, copy->n_expert));
            }
        }
    }
}

double CopyFile::min_bits() const {
    double bits = 0.0;
    for (const ExpertLayer & layer : store.layers()) {
        for (const ExpertMatrix & m : layer.matrices) {
            const double of_matrix = 8.0 * static_cast<double>(m.expert_bytes) /
                                     (static_cast<double>(m.n_in) * static_cast<double>(m.n_out));
            bits                   = bits == 0.0 ? of_matrix : std::min(bits, of_matrix);
        }
    }
    return bits;
}

} // namespace hobbit
