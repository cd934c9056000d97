#include "moe/layer_step.h"

#include "ggml-backend.h"
#include "tier/device_tier.h"

#include <algorithm>
#include <utility>

namespace hobbit {

namespace {

// Decode, and batches as small as those of speculative decoding: their experts are what the next token needs as well,
// so they always enter the cache. In larger batches an expert must be worth more than the one that would go.
constexpr uint32_t max_tokens_admitted = 8;

// Then nothing ever goes in the host's memory.
bool has_slot_for_all(const ModelExperts & model) {
    const std::vector<SizeClass> & classes = model.layouts->classes;
    for (size_t i = 0; i < classes.size(); ++i) {
        if (model.loader->n_slots(static_cast<int32_t>(i)) < classes[i].n_copies) {
            return false;
        }
    }
    return true;
}

} // namespace

Status LayerStep::read_ids(const LayerView & view, const DeviceReads & reads) {
    const ggml_tensor * ids   = view.ids;
    const size_t        row   = view.n_used() * sizeof(int32_t);
    const uint32_t      n_exp = view.model->layers[view.layer_idx].n_expert;
    ids_.resize(static_cast<size_t>(view.n_used()) * view.n_tokens());
    if (ids->nb[0] != sizeof(int32_t)) {
        return Status::error("layer " + std::to_string(view.layer_idx) +
                             ": selected experts are not contiguous in a row");
    }
    // llama.cpp hands over a view on the sorted ids of all experts: contiguous for one token only.
    if (view.n_tokens() == 1) {
        reads.read(ids, ids_.data(), row);
    } else {
        ggml_backend_tensor_get_2d(ids, ids_.data(), 0, row, view.n_tokens(), ids->nb[1], row);
    }
    const auto out_of_range = [n_exp](int32_t id) { return id < 0 || static_cast<uint32_t>(id) >= n_exp; };
    if (std::any_of(ids_.begin(), ids_.end(), out_of_range)) {
        return Status::error("layer " + std::to_string(view.layer_idx) + ": the router selected an expert outside 0.." +
                             std::to_string(n_exp - 1) + ", the model file is damaged");
    }
    return {};
}

void LayerStep::group_rows(const LayerView & view) {
    key_of_.assign(view.model->layers[view.layer_idx].n_expert, -1);
    keys_.clear();
    promoted_.clear();
    skipped_rows_.clear();
    for (uint32_t row = 0; row < ids_.size(); ++row) {
        const int32_t id     = ids_[row];
        const Choice  choice = precision_.choice_of(id);
        if (choice == Choice::skip) {
            skipped_rows_.push_back(row);
        } else if (key_of_[id] < 0) {
            key_of_[id] = 0;
            keys_.push_back(
                {view.layer_idx, static_cast<uint16_t>(id), choice == Choice::hi ? Precision::hi : Precision::lo});
            if (choice == Choice::promote) {
                promoted_.push_back({view.layer_idx, static_cast<uint16_t>(id), Precision::hi});
            }
        }
    }
    if (view.n_tokens() > 1) {
        // File order: neighbours are read in one go. A single token keeps the router's order, best expert first.
        std::sort(keys_.begin(), keys_.end(),
                  [](const ExpertKey & a, const ExpertKey & b) { return a.expert_idx < b.expert_idx; });
    }
    for (size_t i = 0; i < keys_.size(); ++i) {
        key_of_[keys_[i].expert_idx] = static_cast<int32_t>(i);
    }
    first_row_.assign(keys_.size() + 1, 0);
    for (int32_t id : ids_) {
        if (key_of_[id] >= 0) {
            ++first_row_[key_of_[id] + 1];
        }
    }
    for (size_t i = 0; i < keys_.size(); ++i) {
        first_row_[i + 1] += first_row_[i];
    }
    cursor_.assign(first_row_.begin(), first_row_.end() - 1);
    rows_.resize(ids_.size() - skipped_rows_.size());
    for (uint32_t row = 0; row < ids_.size(); ++row) {
        if (key_of_[ids_[row]] >= 0) {
            rows_[cursor_[key_of_[ids_[row]]]++] = row;
        }
    }
}

// What a filter replaced weighs about as little as the last one that stayed, and would have come in the same copy.
void LayerStep::describe_routing(const LayerView & view, const std::vector<int32_t> * own_choice) {
    told_ids_      = own_choice != nullptr && own_choice->size() == ids_.size() ? *own_choice : ids_;
    const size_t n = view.n_used();
    choices_.resize(ids_.size());
    for (size_t i = 0; i < ids_.size(); ++i) {
        const auto row   = ids_.begin() + static_cast<std::ptrdiff_t>(i / n * n);
        const auto found = std::find(row, row + static_cast<std::ptrdiff_t>(n - 1), told_ids_[i]);
        choices_[i]      = precision_.choice_of(*found);
    }
    routing_ = {view.layer_idx, view.n_used(), view.n_tokens(), told_ids_.data(), choices_.data()};
}

Status LayerStep::select(const LayerView & view, const DeviceReads & reads, const std::vector<int32_t> * own_choice) {
    if (Status status = read_ids(view, reads); !status.ok()) {
        return status;
    }
    precision_.decide(view, ids_, *view.model->precision_policy, reads);
    if (precision_.any_skipped()) {
        precision_.drop_skipped(view, ids_, view.model->skip_renorm);
    }
    group_rows(view);
    describe_routing(view, own_choice);
    model_ = view.model;
    if (view.model->tier != nullptr) {
        view.model->tier->on_route(routing_);
    }
    untold_ = view.model->loader;
    if (view.model->tier == nullptr || !has_slot_for_all(*view.model)) {
        tell_later();
    }
    ++view.model->counters.n_layer_steps;
    return {};
}

void LayerStep::tell_later() {
    if (untold_ != nullptr) {
        std::exchange(untold_, nullptr)->on_route(routing_);
    }
}

void LayerStep::load(const LayerView & view, const std::vector<uint32_t> & key_idxs) {
    loaded_keys_.clear();
    for (uint32_t i : key_idxs) {
        loaded_keys_.push_back(keys_[i]);
    }
    load_ =
        view.model->loader->begin(loaded_keys_, view.part_order,
                                  view.n_tokens() <= max_tokens_admitted ? Admission::always : Admission::if_better);
}

void LayerStep::load_all(const LayerView & view) {
    if (!promoted_.empty()) {
        view.model->loader->upgrade(promoted_);
    }
    load_ = view.model->loader->begin(
        keys_, view.part_order, view.n_tokens() <= max_tokens_admitted ? Admission::always : Admission::if_better);
}

const std::vector<int32_t> & LayerStep::slot_ids(const ExpertWeights & weights) {
    slot_ids_.resize(ids_.size());
    for (size_t i = 0; i < ids_.size(); ++i) {
        slot_ids_[i] = weights.slot(static_cast<uint32_t>(key_of_[ids_[i]])).slot_idx;
    }
    return slot_ids_;
}

} // namespace hobbit
