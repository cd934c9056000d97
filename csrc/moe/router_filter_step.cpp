#include "moe/router_filter_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace hobbit {

namespace {

constexpr char sorted_prefix[] = "ffn_moe_argsort-";

// What the selection is a view of: llama.cpp takes the first n_used of the sorted ids.
const ggml_tensor * find_selection(ggml_cgraph * graph, int node_idx) {
    const ggml_tensor * sorted = ggml_graph_node(graph, node_idx);
    const int           end    = std::min(ggml_graph_n_nodes(graph), node_idx + 8);
    for (int i = node_idx + 1; i < end; ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_VIEW && node->view_src == sorted && node->view_offs == 0) {
            return node;
        }
    }
    return nullptr;
}

// Logarithms of weights up to a constant, from what was sorted.
void to_scores(const ggml_tensor * sorted_by, std::vector<float> & values) {
    if (sorted_by->op == GGML_OP_SOFT_MAX) {
        std::transform(values.begin(), values.end(), values.begin(), [](float p) { return std::log(p); });
    } else if (sorted_by->op == GGML_OP_UNARY && ggml_get_unary_op(sorted_by) == GGML_UNARY_OP_SIGMOID) {
        std::transform(values.begin(), values.end(), values.begin(),
                       [](float p) { return std::log(p) - std::log1p(-p); });
    }
}

} // namespace

void RouterFilterStep::begin_graph(ModelExperts * model) {
    sorted_ = nullptr;
    model_  = model;
    if (model == nullptr) {
        return;
    }
    if (made_for_ != model || version_ != model->router_filter_version) {
        filter_   = make_router_filter(model->router_filter);
        made_for_ = model;
        version_  = model->router_filter_version;
    }
}

bool RouterFilterStep::is_selection(const ggml_tensor * node) const {
    return model_ != nullptr && model_->loader != nullptr && filter_ != nullptr && node->op == GGML_OP_ARGSORT &&
           node->ne[1] <= max_tokens && node->ne[2] == 1 &&
           std::strncmp(node->name, sorted_prefix, sizeof(sorted_prefix) - 1) == 0;
}

Status RouterFilterStep::apply(ggml_cgraph * graph, int node_idx) {
    ggml_tensor *       sorted    = ggml_graph_node(graph, node_idx);
    const ggml_tensor * selection = find_selection(graph, node_idx);
    const int           layer_idx = std::atoi(sorted->name + sizeof(sorted_prefix) - 1);
    const auto          n_expert  = static_cast<uint32_t>(sorted->ne[0]);
    const ggml_tensor * sorted_by = sorted->src[0];
    const bool          is_known =
        selection != nullptr && layer_idx >= 0 && static_cast<size_t>(layer_idx) < model_->layers.size() &&
        model_->layers[static_cast<size_t>(layer_idx)].n_expert == n_expert && sorted_by->type == GGML_TYPE_F32 &&
        ggml_is_contiguous(sorted_by) && ggml_is_contiguous(sorted);
    if (!is_known) {
        return {}; // check() says so if it matters
    }
    const auto n_used   = static_cast<uint32_t>(selection->ne[0]);
    const auto n_tokens = static_cast<uint32_t>(sorted->ne[1]);
    const auto layer    = static_cast<uint16_t>(layer_idx);
    scores_.resize(static_cast<size_t>(n_expert) * n_tokens);
    order_.resize(scores_.size());
    ggml_backend_tensor_get(sorted_by, scores_.data(), 0, scores_.size() * sizeof(float));
    ggml_backend_tensor_get(sorted, order_.data(), 0, order_.size() * sizeof(int32_t));
    to_scores(sorted_by, scores_);
    expert_idxs_.resize(n_expert);
    resident_.resize(n_expert);
    std::iota(expert_idxs_.begin(), expert_idxs_.end(), 0);
    // What is on its way is as good as there: to reroute it would waste the read.
    model_->loader->find_coming(layer, expert_idxs_.data(), n_expert, resident_.data());
    own_choice_.clear();
    uint64_t n_rerouted = 0;
    for (uint32_t t = 0; t < n_tokens; ++t) {
        int32_t *  order = order_.data() + static_cast<size_t>(t) * n_expert;
        const auto own   = own_choice_.insert(own_choice_.end(), order, order + n_used);
        filter_->select(layer, scores_.data() + static_cast<size_t>(t) * n_expert, resident_.data(), n_expert, n_used,
                        order);
        for (uint32_t i = 0; i < n_used; ++i) {
            n_rerouted += std::find(own, own_choice_.end(), order[i]) == own_choice_.end() ? 1 : 0;
        }
    }
    if (n_rerouted > 0) {
        ggml_backend_tensor_set(sorted, order_.data(), 0, order_.size() * sizeof(int32_t));
        model_->counters.n_pairs_rerouted += n_rerouted;
    }
    sorted_ = sorted;
    return {};
}

Status RouterFilterStep::check(const LayerView & view) const {
    if (filter_ == nullptr || model_ != view.model || view.n_tokens() > max_tokens || view.n_tokens() == 0 ||
        (sorted_ != nullptr && view.ids->view_src == sorted_)) {
        return {};
    }
    return Status::error("the router filter " + model_->router_filter.name + " does not work with the architecture " +
                         model_->architecture + ": layer " + std::to_string(view.layer_idx) +
                         " selects its experts in another way; leave the filter out");
}

} // namespace hobbit
