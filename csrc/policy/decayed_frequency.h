// Evicts the expert with the fewest recent uses: each use counts 1 and loses 2% with every further token.
#pragma once

#include "policy/decayed_count.h"
#include "policy/eviction.h"

namespace hobbit {

class DecayedFrequency : public EvictionPolicy {
  public:
    DecayedFrequency(const EvictionModel & model, double decay);

    const char * name() const override { return "frequency"; }
    void         on_route(const Routing & routing) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // forgotten by decay: 200 tokens leave 2% of the last sequence's counts

  private:
    struct Layer {
        uint64_t                  n_tokens = 0; // the layer's clock
        std::vector<DecayedCount> counts;       // [expert], of both copies together
    };

    Decay              decay_;
    std::vector<Layer> layers_;
};

} // namespace hobbit
