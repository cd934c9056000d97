// How each expert was used in this sequence: what most policies score by.
#pragma once

#include "policy/eviction.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class SequenceRecords {
  public:
    struct Record {
        uint32_t n_uses = 0; // the router chose it, whatever it was computed with
        uint32_t n_hi   = 0;
        uint32_t n_lo   = 0;
        uint64_t last   = 0; // the layer's token of the last use, counted from 1; 0: never
    };
    struct Layer {
        uint64_t            n_tokens = 0; // the layer's clock
        uint64_t            pass     = 0; // its value before the last batch
        std::vector<Record> records;      // [expert]
    };

    explicit SequenceRecords(const EvictionModel & model);

    void on_route(const Routing & routing);
    void reset();

    const Layer &  layer(uint16_t layer_idx) const { return layers_[layer_idx]; }
    const Record & of(ExpertKey key) const { return layers_[key.layer_idx].records[key.expert_idx]; }

    // Tokens of this sequence, at least 1: a divisor.
    double n_tokens() const { return n_tokens_ == 0 ? 1.0 : static_cast<double>(n_tokens_); }
    // Tokens that its layer routed since the copy's expert was used last; since the beginning if it never was.
    uint64_t age(ExpertKey key) const { return layers_[key.layer_idx].n_tokens - of(key).last; }
    // Whether it was used in the last batch that its layer routed.
    bool in_last_pass(ExpertKey key) const { return of(key).last > layers_[key.layer_idx].pass; }

    size_t   n_layers() const { return layers_.size(); }
    uint16_t layer_idx() const { return layer_idx_; } // that routed last
    // Layers from the current one on to that of the copy, going round: 0 for the current layer itself.
    double layers_ahead(ExpertKey key) const {
        const size_t n = layers_.size();
        return static_cast<double>((key.layer_idx + n - layer_idx_) % n);
    }

  private:
    std::vector<Layer> layers_;
    uint64_t           n_tokens_  = 0; // the clock of the layer that routed last
    uint16_t           layer_idx_ = 0;
};

} // namespace hobbit
