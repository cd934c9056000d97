#include "moe/gates_ahead.h"

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

void GatesAhead::find_routers(ggml_cgraph * graph) {
    routers_.clear();
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
                routers_.push_back(router);
            }
        } else if (!routers_.empty()) {
            Router & router = routers_.back();
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

bool GatesAhead::make_bank() {
    const ggml_tensor * first = routers_.front().logits->src[0];
    first_row_.assign(1, 0);
    for (const Router & router : routers_) {
        const ggml_tensor * weights = router.logits->src[0];
        if (weights->type != first->type || weights->ne[0] != first->ne[0] || !ggml_is_contiguous(weights)) {
            return false;
        }
        first_row_.push_back(first_row_.back() + static_cast<uint32_t>(weights->ne[1]));
    }
    if (banked_ == first->data && bank_.n_bytes() > 0) {
        return true; // weights stay where they are
    }
    const size_t row_bytes = ggml_row_size(first->type, first->ne[0]);
    if (!bank_.reserve(first_row_.back() * row_bytes)) {
        return false;
    }
    std::vector<char> bank(first_row_.back() * row_bytes);
    for (size_t i = 0; i < routers_.size(); ++i) {
        const ggml_tensor * weights = routers_[i].logits->src[0];
        ggml_backend_tensor_get(weights, bank.data() + first_row_[i] * row_bytes, 0, ggml_nbytes(weights));
    }
    fold_norms(bank);
    ggml_tensor all = flat_tensor(GGML_TYPE_I8, bank.size(), bank_.buffer(), bank_.data());
    ggml_backend_tensor_set(&all, bank.data(), 0, bank.size()); // the device's memory need not be the host's
    banked_ = first->data;
    return true;
}

void GatesAhead::fold_norms(std::vector<char> & bank) {
    const auto n_embd = static_cast<size_t>(routers_.front().logits->src[0]->ne[0]);
    const auto read   = [&](const Router & router) {
        std::vector<float> norm(n_embd);
        ggml_backend_tensor_get(router.norm, norm.data(), 0, n_embd * sizeof(float));
        return norm;
    };
    const auto can_fold = [&](const Router & router) {
        if (router.norm == nullptr || router.logits->src[0]->type != GGML_TYPE_F32) {
            return false;
        }
        const std::vector<float> norm = read(router); // to be divided by
        return std::all_of(norm.begin(), norm.end(), [](float x) { return std::abs(x) > 1e-6f; });
    };
    is_folded_ = std::all_of(routers_.begin(), routers_.end(), can_fold);
    for (size_t i = 0; is_folded_ && i < routers_.size(); ++i) {
        const std::vector<float> norm = read(routers_[i]);
        float *                  rows = reinterpret_cast<float *>(bank.data()) + first_row_[i] * n_embd;
        for (size_t k = 0; k < (first_row_[i + 1] - first_row_[i]) * n_embd; ++k) {
            rows[k] *= norm[k % n_embd];
        }
    }
}

void GatesAhead::begin_graph(ggml_cgraph * graph, uint32_t n_layers) {
    n_layers_    = n_layers;
    next_router_ = 0;
    n_ahead_     = 0;
    is_due_      = false;
    routers_.clear();
    if (n_layers == 0) {
        return;
    }
    find_routers(graph);
    // A prompt's last layer alone may have few tokens. Routers of different kinds: nothing is predicted.
    if (routers_.size() < 2 || !make_bank()) {
        routers_.clear();
    }
}

void GatesAhead::on_node(const ggml_tensor * node) {
    if (next_router_ < routers_.size() && routers_[next_router_].logits == node) {
        source_  = next_router_++;
        n_ahead_ = 0;
        is_due_  = next_router_ < routers_.size();
    }
}

void GatesAhead::add_product(InnerGraph & inner) {
    if (!is_due_) {
        return;
    }
    is_due_                   = false;
    const auto      n_ahead   = std::min<size_t>(n_layers_, routers_.size() - next_router_);
    const int64_t   n_rows    = first_row_[next_router_ + n_ahead] - first_row_[next_router_];
    ggml_tensor *   input     = routers_[source_].logits->src[1];
    const ggml_type type      = routers_[source_].logits->src[0]->type;
    const size_t    row_bytes = ggml_row_size(type, input->ne[0]);
    if (!inner.has_room(6, 0) || !input_.reserve(ggml_nbytes(input)) ||
        !output_.reserve(static_cast<size_t>(n_rows * input->ne[1]) * sizeof(float))) {
        return;
    }
    if (is_folded_) {
        input         = ggml_div(inner.context(), input, routers_[source_].norm);
        input->buffer = input_.buffer();
        input->data   = input_.data();
        inner.add_made(input);
    }
    ggml_tensor * weights = inner.tensor_over(type, input->ne[0], n_rows, 1, bank_.buffer(),
                                              bank_.data() + first_row_[next_router_] * row_bytes);
    ggml_tensor * product = ggml_mul_mat(inner.context(), weights, input);
    product->buffer       = output_.buffer();
    product->data         = output_.data();
    inner.add_made(product);
    product_ = *product;
    n_ahead_ = static_cast<uint32_t>(n_ahead);
}

void GatesAhead::read_logits(const Router & router, uint32_t first_row, std::vector<float> & logits) {
    const auto n_expert = static_cast<size_t>(router.logits->ne[0]);
    const auto n_tokens = static_cast<size_t>(product_.ne[1]);
    logits.resize(n_tokens * n_expert);
    for (size_t t = 0; t < n_tokens; ++t) {
        const float * row = values_.data() + t * static_cast<size_t>(product_.ne[0]) + first_row;
        std::copy(row, row + n_expert, logits.begin() + static_cast<std::ptrdiff_t>(t * n_expert));
    }
    const auto add = [&](const ggml_tensor * bias) {
        if (bias != nullptr && ggml_nelements(bias) == static_cast<int64_t>(n_expert)) {
            values_.resize(static_cast<size_t>(ggml_nelements(&product_)) + n_expert);
            float * values = values_.data() + ggml_nelements(&product_);
            ggml_backend_tensor_get(bias, values, 0, n_expert * sizeof(float));
            for (size_t i = 0; i < logits.size(); ++i) {
                logits[i] += values[i % n_expert];
            }
        }
    };
    add(router.bias);
    if (router.is_sigmoid) { // softmax of the logarithms gives back the shares
        std::transform(logits.begin(), logits.end(), logits.begin(),
                       [](float x) { return 1.0f / (1.0f + std::exp(-x)); });
        add(router.selection_bias);
        std::transform(logits.begin(), logits.end(), logits.begin(),
                       [](float x) { return std::log(std::max(x, 1e-9f)); });
    }
}

void GatesAhead::want(DeviceReads & reads) const {
    if (n_ahead_ > 0) {
        reads.want(&product_);
    }
}

const GateLogits & GatesAhead::read(uint16_t layer_idx, const DeviceReads & reads) {
    std::fill(gates_.of_layer.begin(), gates_.of_layer.end(), nullptr);
    gates_.n_tokens = 0;
    if (n_ahead_ == 0 || routers_[source_].layer_idx != layer_idx) {
        return gates_;
    }
    values_.resize(static_cast<size_t>(ggml_nelements(&product_)));
    reads.read(&product_, values_.data(), values_.size() * sizeof(float));
    gates_.n_tokens = static_cast<uint32_t>(product_.ne[1]);
    logits_.resize(std::max<size_t>(logits_.size(), n_ahead_));
    uint32_t first_row = 0;
    for (uint32_t i = 0; i < n_ahead_; ++i) {
        const Router & router = routers_[source_ + 1 + i];
        const auto     layer  = static_cast<size_t>(router.layer_idx);
        read_logits(router, first_row, logits_[i]);
        gates_.of_layer.resize(std::max(gates_.of_layer.size(), layer + 1), nullptr);
        gates_.of_layer[layer] = logits_[i].data();
        first_row += static_cast<uint32_t>(router.logits->ne[0]);
    }
    return gates_;
}

} // namespace hobbit
