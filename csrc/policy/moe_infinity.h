// MoE-Infinity's eviction (arXiv 2401.14361 v3, section 5.3): the chance that the rest of the request uses an expert,
// times a bonus for the first layers, which a predictor has little to go by for. The chance is what a predictor says of
// the layer, and until there is one the share of the layer's uses in this sequence.
#pragma once

#include "policy/eviction.h"

namespace hobbit {

class MoeInfinity : public EvictionPolicy {
  public:
    explicit MoeInfinity(const EvictionModel & model);

    const char * name() const override { return "moe-infinity"; }
    void         on_route(const Routing & routing) override;
    void         on_predict(uint16_t source_layer_idx, const ExpectedUse * uses, uint32_t n) override;
    double       score(ExpertKey key) const override;
    void         reset() override;

  private:
    struct Row {
        std::vector<double> values; // [expert]
        double              sum = 0;
    };
    struct Layer {
        Row  uses; // of this sequence
        Row  expected;
        bool is_predicted = false;
    };

    std::vector<Layer> layers_;
};

} // namespace hobbit
