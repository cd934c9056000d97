#include "moe/importance.h"

#include "ggml-backend.h"

namespace hobbit {

ImportanceRecorder::ImportanceRecorder(const std::vector<LayerShapes> & layers, size_t max_moments_bytes)
    : moments_(layers, max_moments_bytes) {
    for (const LayerShapes & layer : layers) {
        std::vector<Sums> & parts = layers_.emplace_back();
        for (const PartShape & part : layer.parts[static_cast<int>(Precision::hi)]) {
            parts.push_back({std::vector<float>(layer.n_expert * static_cast<size_t>(part.n_in)),
                             std::vector<double>(layer.n_expert)});
        }
    }
}

void ImportanceRecorder::add(const LayerView & view, const ExpertNode & node, const std::vector<int32_t> & ids) {
    moments_.add(view, node, ids);
    const ggml_tensor * input     = node.node->src[1]; // F32 [n_in, n_used or 1, n_tokens]
    const auto          n_in      = static_cast<size_t>(input->ne[0]);
    const size_t        n_used    = view.n_used();
    const bool          broadcast = input->ne[1] == 1;
    Sums &              sums      = layers_[view.layer_idx][node.part_idx];
    row_.resize(n_in);
    for (size_t i = 0; i < ids.size(); ++i) {
        const size_t token = i / n_used;
        ggml_backend_tensor_get(input, row_.data(), token * input->nb[2] + (broadcast ? 0 : i % n_used * input->nb[1]),
                                n_in * sizeof(float));
        const auto expert_idx = static_cast<size_t>(ids[i]);
        float *    squares    = sums.squares.data() + expert_idx * n_in;
        for (size_t j = 0; j < n_in; ++j) {
            squares[j] += row_[j] * row_[j];
        }
        sums.n_rows[expert_idx] += 1.0;
    }
}

} // namespace hobbit
