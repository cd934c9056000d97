#include "moe/look_ahead.h"

#include "predict/trained_gates.h"

#include <algorithm>

namespace hobbit {

namespace {

// Their runs are not cut at the router, so nothing is known there; a model that has such layers has (nearly) all.
bool holds_layers(const ModelExperts & model) {
    for (uint16_t i = 0; model.loader != nullptr && i < model.layers.size(); i++) {
        if (model.layers[i].n_expert == 0) {
            continue;
        }
        if (const auto is_held = static_cast<bool>(model.held(i)); is_held || model.tier == nullptr) {
            return is_held; // a loader has all or none
        }
    }
    return false;
}

} // namespace

LookAhead::Needs LookAhead::begin_pass(ModelExperts * model, const ggml_tensor * tokens, uint32_t n_tokens) {
    Needs needs;
    if (model == nullptr) {
        return needs; // not a pass through the layers
    }
    const bool is_held = holds_layers(*model);
    needs.trained.own  = model->predictor_shared.trained != nullptr && !is_held;
    if (model->prefetch.predictor == "none" || is_held) {
        planner_.reset();
        planned_for_ = nullptr;
        return needs;
    }
    if (planner_ == nullptr || planned_for_ != model || version_ != model->prefetch_version) {
        planner_.reset(); // first: a request that ends here is known to the next one
        PrefetchOptions options = model->prefetch;
        if (model->tier != nullptr) { // a link is fast: the next layer is as far as its copies reach
            options.horizon = "fixed";
            options.depth   = 1;
        }
        planner_ = std::make_unique<PrefetchPlanner>(
            options, model->predictor_model, model->predictor_shared, *model->layouts, model->prediction_counts,
            model->tier == nullptr ? make_router_filter(model->router_filter) : nullptr);
        planned_for_ = model;
        version_     = model->prefetch_version;
    }
    if (sequence_ != model->sequence) {
        planner_->begin_sequence();
        sequence_ = model->sequence;
    }
    token_ids_.clear();
    if (tokens != nullptr && tokens->type == GGML_TYPE_I32 && ggml_nelements(tokens) == n_tokens) {
        token_ids_.resize(n_tokens);
        ggml_backend_tensor_get(tokens, token_ids_.data(), 0, n_tokens * sizeof(int32_t));
    }
    planner_->begin_pass(token_ids_.empty() ? nullptr : token_ids_.data(), n_tokens);
    needs.routers.n_layers = planner_->n_gate_layers(Gates::routers);
    needs.trained.n_layers = planner_->n_gate_layers(Gates::trained);
    if (const PredictionRecord * record = model->predictor_shared.record.get(); record != nullptr) {
        needs.routers.own         = true; // the last layer, too
        needs.routers.keeps_input = record->keeps_inputs;
    }
    return needs;
}

void LookAhead::tell_next_token(const LayerView & view, GatesAhead & trained, const DeviceReads & reads) {
    const GateLogits & gates = trained.read(view.layer_idx, reads);
    if (gates.own == nullptr || gates.n_tokens != view.n_tokens()) {
        return;
    }
    const uint32_t n    = view.model->layers[view.layer_idx].n_expert;
    const float *  last = gates.own + static_cast<size_t>(gates.n_tokens - 1) * n;
    chances_.resize(n);
    std::transform(last, last + n, chances_.begin(), as_chance);
    view.model->loader->on_next_token(view.layer_idx, chances_);
}

const std::vector<ExpertKey> & LookAhead::plan(const LayerView & view, BothGates & both, const DeviceReads & reads,
                                               const FindResident & find_resident) {
    const ModelExperts & model  = *view.model;
    PredictionRecord *   record = model.predictor_shared.record.get();
    if (record != nullptr && record->keeps_inputs) {
        record->routers.resize(model.layers.size());
        if (record->routers[view.layer_idx].empty()) {
            record->routers[view.layer_idx] = both.routers.router_of(view.layer_idx);
        }
    }
    GatesAhead & gates = planner_->n_gate_layers(Gates::trained) > 0 ? both.trained : both.routers;
    return planner_->plan(*model.loader, *model.precision_policy, gates.read(view.layer_idx, reads), find_resident);
}

void LookAhead::read(const LayerView & view, const LayerStep & step, BothGates & both, const DeviceReads & reads) {
    if (planner_ == nullptr || planned_for_ != view.model) {
        return;
    }
    ModelExperts & model = *view.model;
    planner_->observe(view.layer_idx, step.ids().data(), view.n_used(), view.n_tokens());
    if (view.n_tokens() > GatesAhead::max_tokens) {
        model.loader->prefetch({}, view.part_order); // larger batches need most experts anyway
        return;
    }
    const std::vector<ExpertKey> & keys = plan(view, both, reads);
    model.loader->on_predict(view.layer_idx, planner_->expected());
    model.loader->prefetch(keys, view.part_order);
}

void LookAhead::copy(const LayerView & view, const LayerStep & step, BothGates & both, const DeviceReads & reads,
                     TieredLayer & tiered) {
    if (planner_ == nullptr || planned_for_ != view.model || view.n_tokens() > GatesAhead::max_tokens) {
        return;
    }
    ModelExperts &     model         = *view.model;
    const FindResident find_resident = [&model](uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n,
                                                Resident * resident) {
        model.tier->find_resident(layer_idx, expert_idxs, n, resident);
    };
    planner_->observe(view.layer_idx, step.ids().data(), view.n_used(), view.n_tokens());
    const std::vector<ExpertKey> absent = tiered.expect(plan(view, both, reads, find_resident));
    if (!absent.empty()) {
        model.loader->prefetch(absent, view.part_order);
    }
}

} // namespace hobbit
