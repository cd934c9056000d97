// Evicts the expert that was used longest ago.
#pragma once

#include "policy/eviction.h"

namespace hobbit {

class Lru : public EvictionPolicy {
  public:
    explicit Lru(const EvictionModel & model);

    const char * name() const override { return "lru"; }
    void         on_route(const Routing & routing) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // what the last sequence left resident is still best ordered by age

  private:
    // One clock for all layers, a tick for each token a layer routes: layers that share slots compare by real order.
    uint64_t                           clock_ = 0;
    std::vector<std::vector<uint64_t>> last_use_; // [layer][expert], 0 = never
};

} // namespace hobbit
