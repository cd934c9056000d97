// Decayed frequency that knows what mixed precision wants: the best expert of a token needs its hi copy, the others are
// served by either. So a hi copy is worth its uses as the best expert and a share of the others; a lo copy is worth the
// others alone. Ranks, not the copies that were used: those depend on what happened to be resident.
#pragma once

#include "policy/decayed_count.h"
#include "policy/eviction.h"

namespace hobbit {

class RankedFrequency : public EvictionPolicy {
  public:
    RankedFrequency(const EvictionModel & model, double decay, double later_weight);

    const char * name() const override { return "ranked-frequency"; }
    void         on_route(const Routing & routing) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // forgotten by decay

  private:
    struct Expert {
        DecayedCount best, later; // uses as a token's best expert, and as another
    };
    struct Layer {
        uint64_t            n_tokens = 0; // the layer's clock
        std::vector<Expert> experts;
    };

    Decay              decay_;
    double             later_weight_; // in a hi copy's worth
    std::vector<Layer> layers_;
};

} // namespace hobbit
