// ExpertFlow's two-level LRU (arXiv 2510.26730, section "cache"): what its layer's last token used and what is
// predicted for layers to come stays; of the rest, and only then of these, the one that was used longest ago goes.
#pragma once

#include "policy/lru.h"
#include "policy/sequence_records.h"

namespace hobbit {

class TwoLevelLru : public EvictionPolicy {
  public:
    explicit TwoLevelLru(const EvictionModel & model);

    const char * name() const override { return "two-level-lru"; }
    void         on_route(const Routing & routing) override;
    void         on_predict(uint16_t source_layer_idx, const ExpectedUse * uses, uint32_t n) override;
    double       score(ExpertKey key) const override;
    void         reset() override;

  private:
    Lru                               age_;
    SequenceRecords                   records_;
    std::vector<std::vector<uint8_t>> is_expected_; // [layer][expert], until the layer has routed
};

} // namespace hobbit
