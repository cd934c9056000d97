// Evicts the expert with the fewest uses in this sequence.
#pragma once

#include "policy/sequence_records.h"

namespace hobbit {

class Lfu : public EvictionPolicy {
  public:
    explicit Lfu(const EvictionModel & model) : records_(model) {}

    const char * name() const override { return "lfu"; }
    void         on_route(const Routing & routing) override { records_.on_route(routing); }
    double       score(ExpertKey key) const override;
    void         reset() override { records_.reset(); }

  private:
    SequenceRecords records_;
};

} // namespace hobbit
