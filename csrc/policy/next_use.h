// Keeps what is likely to be used soon: a causal stand-in for Belady's rule, our own.
//
// The chance that a layer's next token uses an expert is its rate of late, more if the last token used it too. Layers
// come in turn, so of two equal chances the one whose layer comes sooner is worth more: the next layer counts almost
// in full, the current one, which has just been served, 1 - layer_weight.
//
// Beside lo copies a hi copy is worth its uses as a token's best expert, which the precision policies ask in hi, and a
// share (later_weight) of the others, which its lo copy would serve as well.
#pragma once

#include "policy/decayed_count.h"
#include "policy/eviction.h"

namespace hobbit {

class NextUse : public EvictionPolicy {
  public:
    NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight, double later_weight);

    const char * name() const override { return "next-use"; }
    void         on_route(const Routing & routing) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // forgotten by decay

  private:
    struct Expert {
        DecayedCount best, later;                   // uses as a token's best expert, and as another
        uint64_t     last_best = 0, last_later = 0; // token of the last such use
    };
    struct Layer {
        uint64_t            n_tokens = 0; // the layer's clock
        uint64_t            pass     = 0; // its value before the last batch
        std::vector<Expert> experts;
    };

    // That the layer's next token uses an expert which was counted so.
    double chance(const DecayedCount & count, uint64_t last, const Layer & layer) const;

    Decay              decay_;
    double             rate_of_count_; // a count that fades settles at its rate times 1 / (1 - decay)
    double             last_weight_;
    double             layer_weight_;
    double             later_weight_; // in a hi copy's score
    std::vector<Layer> layers_;
    uint16_t           layer_idx_ = 0; // that routed last
};

} // namespace hobbit
