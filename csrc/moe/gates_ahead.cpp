#include "moe/gates_ahead.h"

#include <algorithm>
#include <cmath>

namespace hobbit {

void GatesAhead::begin_graph(ggml_cgraph * graph, const ModelExperts * model, const GateNeeds & needs) {
    needs_       = needs;
    next_router_ = 0;
    is_made_     = false;
    is_due_      = false;
    routers_.clear();
    if (model == nullptr || !needs.any()) {
        return;
    }
    find_routers(graph, max_tokens, routers_);
    // A prompt's last layer alone may have few tokens. Routers of different kinds: nothing is predicted.
    if (routers_.size() < 2 || !bank_->begin(*model, routers_)) {
        routers_.clear();
    }
}

void GatesAhead::on_node(const ggml_tensor * node) {
    if (next_router_ < routers_.size() && routers_[next_router_].logits == node) {
        source_  = next_router_++;
        is_made_ = false;
        is_due_  = needs_.own || next_router_ < routers_.size();
    }
}

// The input as the bank wants it, in memory that keeps it beyond the run if that is asked for.
ggml_tensor * GatesAhead::prepare_input(InnerGraph & inner, const Router & source) {
    ggml_tensor * input = source.logits->src[1];
    if (!bank_->divides_norm() && !needs_.keeps_input) {
        return input;
    }
    ggml_tensor * prepared =
        bank_->divides_norm() ? ggml_div(inner.context(), input, source.norm) : ggml_cont(inner.context(), input);
    prepared->buffer = input_.buffer();
    prepared->data   = input_.data();
    inner.add_made(prepared);
    return prepared;
}

void GatesAhead::add_product(InnerGraph & inner) {
    if (!is_due_) {
        return;
    }
    is_due_               = false;
    const Router & source = routers_[source_];
    const size_t   n_ahead =
        std::min({static_cast<size_t>(needs_.n_layers), routers_.size() - next_router_, bank_->max_ahead()});
    const GateRows rows   = bank_->rows(routers_, source_, needs_.own, n_ahead);
    const int64_t  n_embd = source.weights()->ne[0];
    const int64_t  n      = source.logits->ne[1];
    if (rows.n_rows == 0 || !inner.has_room(6, 0) || !input_.reserve(static_cast<size_t>(n_embd * n) * sizeof(float)) ||
        !output_.reserve(static_cast<size_t>(rows.n_rows * n) * sizeof(float))) {
        return;
    }
    ggml_tensor * input   = prepare_input(inner, source);
    ggml_tensor * weights = inner.tensor_over(rows.type, n_embd, rows.n_rows, 1, rows.area.buffer, rows.area.data);
    ggml_tensor * product = ggml_mul_mat(inner.context(), weights, input);
    product->buffer       = output_.buffer();
    product->data         = output_.data();
    inner.add_made(product);
    product_ = *product;
    made_of_ = *input;
    biases_  = rows.biases;
    n_ahead_ = static_cast<uint32_t>(n_ahead);
    is_made_ = true;
    is_read_ = false;
}

void GatesAhead::split(const Router & router, uint32_t first_row, std::vector<float> & logits) const {
    const auto n_expert = static_cast<size_t>(router.logits->ne[0]);
    const auto n_rows   = static_cast<size_t>(product_.ne[0]);
    logits.clear();
    for (size_t t = 0; t < static_cast<size_t>(product_.ne[1]); ++t) {
        for (size_t i = 0; i < n_expert; ++i) {
            const float bias = biases_ != nullptr ? biases_[first_row + i] : 0.0f;
            logits.push_back(values_[t * n_rows + first_row + i] + bias);
        }
    }
}

// What follows the router's product: biases, and sigmoids.
void GatesAhead::complete(const Router & router, std::vector<float> & logits) const {
    const auto n_expert = static_cast<size_t>(router.logits->ne[0]);
    const auto add      = [&](const ggml_tensor * bias) {
        if (bias != nullptr && ggml_nelements(bias) == static_cast<int64_t>(n_expert)) {
            const std::vector<float> values = read_floats(bias);
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
    if (is_made_) {
        reads.want(&product_);
    }
}

const GateLogits & GatesAhead::read(uint16_t layer_idx, const DeviceReads & reads) {
    const bool is_there = is_made_ && routers_[source_].layer_idx == layer_idx;
    if (is_there && is_read_) {
        return gates_;
    }
    std::fill(gates_.of_layer.begin(), gates_.of_layer.end(), nullptr);
    gates_.n_tokens = 0;
    gates_.own      = nullptr;
    gates_.input    = nullptr;
    if (!is_there) {
        return gates_;
    }
    is_read_ = true;
    values_.resize(static_cast<size_t>(ggml_nelements(&product_)));
    reads.read(&product_, values_.data(), values_.size() * sizeof(float));
    gates_.n_tokens    = static_cast<uint32_t>(product_.ne[1]);
    gates_.n_embd      = static_cast<uint32_t>(made_of_.ne[0]);
    uint32_t first_row = 0;
    if (needs_.own) {
        split(routers_[source_], 0, own_);
        gates_.own = own_.data();
        first_row += static_cast<uint32_t>(routers_[source_].logits->ne[0]);
    }
    if (needs_.keeps_input) {
        kept_input_.resize(static_cast<size_t>(ggml_nelements(&made_of_)));
        reads.read(&made_of_, kept_input_.data(), kept_input_.size() * sizeof(float));
        gates_.input = kept_input_.data();
    }
    logits_.resize(std::max<size_t>(logits_.size(), n_ahead_));
    for (uint32_t i = 0; i < n_ahead_; ++i) {
        const Router & router = routers_[source_ + 1 + i];
        const auto     layer  = static_cast<size_t>(router.layer_idx);
        split(router, first_row, logits_[i]);
        complete(router, logits_[i]);
        gates_.of_layer.resize(std::max(gates_.of_layer.size(), layer + 1), nullptr);
        gates_.of_layer[layer] = logits_[i].data();
        first_row += static_cast<uint32_t>(router.logits->ne[0]);
    }
    return gates_;
}

std::vector<float> GatesAhead::router_of(uint16_t layer_idx) const {
    const auto found = std::find_if(routers_.begin(), routers_.end(),
                                    [layer_idx](const Router & router) { return router.layer_idx == layer_idx; });
    if (found == routers_.end()) {
        return {};
    }
    std::vector<float> rows = read_floats(found->weights());
    if (bank_->divides_norm()) {
        const std::vector<float> norm = read_floats(found->norm);
        for (size_t k = 0; k < rows.size(); ++k) {
            rows[k] *= norm[k % norm.size()];
        }
    }
    return rows;
}

} // namespace hobbit
