#include "moe/input_moments.h"

#include "ggml-backend.h"

#include <algorithm>

namespace hobbit {

namespace {

// The input of an expert's matrices other than the down projection is the layer's.
bool is_shared(const PartShape & part) { return part.kind != MatrixKind::down; }

// Matrices of one layer with the same input count once: `up` and `gate`.
size_t bytes_of(const std::vector<LayerShapes> & layers, bool own) {
    size_t n_floats = 0;
    for (const LayerShapes & layer : layers) {
        size_t shared = 0;
        for (const PartShape & part : layer.parts[static_cast<int>(Precision::hi)]) {
            const size_t n = n_moments(static_cast<size_t>(part.n_in));
            if (is_shared(part)) {
                shared = std::max(shared, own ? n * layer.n_expert : n);
            } else if (own) {
                n_floats += n * layer.n_expert;
            }
        }
        n_floats += shared;
    }
    return n_floats * sizeof(float);
}

const ggml_tensor * input_of(const ExpertNode & node) { return node.node->src[1]; }

} // namespace

size_t n_moments(size_t n_in) {
    const size_t rest = n_in % moments_block;
    return n_in / moments_block * (moments_block * (moments_block + 1) / 2) + rest * (rest + 1) / 2;
}

InputMoments::InputMoments(const std::vector<LayerShapes> & layers, size_t max_bytes) {
    const bool own    = bytes_of(layers, true) <= max_bytes;
    const bool shared = !own && bytes_of(layers, false) <= max_bytes;
    for (const LayerShapes & layer : layers) {
        std::vector<Sums> & parts = layers_.emplace_back();
        for (const PartShape & part : layer.parts[static_cast<int>(Precision::hi)]) {
            parts.emplace_back().n_groups = own ? layer.n_expert : shared && is_shared(part) ? 1 : 0;
        }
    }
}

void InputMoments::add(const LayerView & view, const ExpertNode & node, const std::vector<int32_t> & ids) {
    Sums & sums = layers_[view.layer_idx][node.part_idx];
    if (sums.n_groups == 0) {
        return;
    }
    for (const ExpertNode & earlier : view.nodes) {
        if (input_of(earlier) == input_of(node)) {
            if (earlier.part_idx != node.part_idx) {
                return;
            }
            break;
        }
    }
    if (sums.sums.empty()) {
        sums.sums.resize(sums.n_groups * n_moments(static_cast<size_t>(input_of(node)->ne[0])));
        sums.n_rows.resize(sums.n_groups);
    }
    if (sums.n_groups > 1) {
        add_own(input_of(node), ids, sums);
    } else {
        add_shared(input_of(node), sums);
    }
}

void InputMoments::add_own(const ggml_tensor * input, const std::vector<int32_t> & ids, Sums & sums) {
    const auto   n_in   = static_cast<size_t>(input->ne[0]);
    const size_t n_used = ids.size() / static_cast<size_t>(input->ne[2]);
    for (size_t expert_idx = 0; expert_idx < sums.n_groups; ++expert_idx) {
        rows_.clear();
        for (size_t i = 0; i < ids.size(); ++i) {
            if (static_cast<size_t>(ids[i]) == expert_idx) {
                read_row(input, i / n_used, i % n_used);
            }
        }
        const size_t n_rows = rows_.size() / n_in;
        add_rows(sums.sums.data() + expert_idx * n_moments(n_in), n_in, n_rows);
        sums.n_rows[expert_idx] += static_cast<double>(n_rows);
    }
}

void InputMoments::add_shared(const ggml_tensor * input, Sums & sums) {
    const auto n_tokens = static_cast<size_t>(input->ne[2]);
    rows_.clear();
    for (size_t token = 0; token < n_tokens; ++token) {
        read_row(input, token, 0);
    }
    add_rows(sums.sums.data(), static_cast<size_t>(input->ne[0]), n_tokens);
    sums.n_rows[0] += static_cast<double>(n_tokens);
}

void InputMoments::read_row(const ggml_tensor * input, size_t token, size_t used) {
    const auto   n_in  = static_cast<size_t>(input->ne[0]);
    const size_t begin = rows_.size();
    rows_.resize(begin + n_in);
    ggml_backend_tensor_get(input, rows_.data() + begin,
                            token * input->nb[2] + (input->ne[1] == 1 ? 0 : used * input->nb[1]), n_in * sizeof(float));
}

// Four rows at a time: a triangle is read and written once for all of them.
void InputMoments::add_rows(float * sums, size_t n_in, size_t n_rows) {
    constexpr size_t n_at_once = 4;
    rows_.resize((n_rows + n_at_once - 1) / n_at_once * n_at_once * n_in); // with rows of zeros at the end
    for (size_t row = 0; row < n_rows; row += n_at_once) {
        const float * a        = rows_.data() + row * n_in;
        const float * b        = a + n_in;
        const float * c        = b + n_in;
        const float * d        = c + n_in;
        float *       triangle = sums;
        for (size_t first = 0; first < n_in; first += moments_block) {
            for (size_t i = first; i < std::min(first + moments_block, n_in); ++i) {
                const float ai = a[i], bi = b[i], ci = c[i], di = d[i];
                for (size_t j = first; j <= i; ++j) {
                    triangle[j - first] += ai * a[j] + bi * b[j] + ci * c[j] + di * d[j];
                }
                triangle += i - first + 1;
            }
        }
    }
}

} // namespace hobbit
