#include "policy/sequence_records.h"

#include <cassert>

namespace hobbit {

SequenceRecords::SequenceRecords(const EvictionModel & model) : layers_(model.n_expert.size()) {
    for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].records.resize(model.n_expert[i]);
    }
}

void SequenceRecords::on_route(const Routing & routing) {
    assert(routing.layer_idx < layers_.size());
    Layer & layer = layers_[routing.layer_idx];
    layer.pass    = layer.n_tokens;
    for (uint32_t token = 0; token < routing.n_tokens; token++) {
        layer.n_tokens++;
        for (uint32_t i = 0; i < routing.n_used; i++) {
            const size_t pair       = size_t{token} * routing.n_used + i;
            const auto   expert_idx = static_cast<size_t>(routing.expert_idxs[pair]);
            const Choice choice     = routing.choices == nullptr ? Choice::hi : routing.choices[pair];
            assert(expert_idx < layer.records.size());
            Record & record = layer.records[expert_idx];
            record.n_uses++;
            record.n_hi += choice == Choice::hi ? 1 : 0;
            record.n_lo += choice == Choice::lo ? 1 : 0;
            record.last = layer.n_tokens;
        }
    }
    layer_idx_ = routing.layer_idx;
    n_tokens_  = layer.n_tokens;
}

void SequenceRecords::reset() {
    for (Layer & layer : layers_) {
        layer.n_tokens = layer.pass = 0;
        layer.records.assign(layer.records.size(), {});
    }
    n_tokens_  = 0;
    layer_idx_ = 0;
}

} // namespace hobbit
