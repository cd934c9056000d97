// Keeps what is likely to be used soon: a causal stand-in for Belady's rule, our own.
//
// The chance that a layer's next token uses an expert is its rate of late, more if the last token used it too. Layers
// come in turn, so of two equal chances the one whose layer comes sooner is worth more: the next layer counts almost
// in full, the current one, which has just been served, 1 - layer_weight.
#pragma once

#include "policy/decayed_count.h"
#include "policy/eviction.h"

namespace hobbit {

class NextUse : public EvictionPolicy {
  public:
    NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight);

    const char * name() const override { return "next-use"; }
    void         on_route(const Routing & routing) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // forgotten by decay

  private:
    struct Expert {
        DecayedCount uses;
        uint64_t     last = 0; // token of the last use
    };
    struct Layer {
        uint64_t            n_tokens = 0; // the layer's clock
        uint64_t            pass     = 0; // its value before the last batch
        std::vector<Expert> experts;
    };

    Decay              decay_;
    double             rate_of_count_; // a count that fades settles at its rate times 1 / (1 - decay)
    double             last_weight_;
    double             layer_weight_;
    std::vector<Layer> layers_;
    uint16_t           layer_idx_ = 0; // that routed last
};

} // namespace hobbit
