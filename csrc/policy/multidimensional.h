// HOBBIT's weighted sum (arXiv 2411.01433, section 3.4): last use, uses and uses in hi in this sequence over its
// tokens, and how soon the expert's layer comes.
#pragma once

#include "policy/sequence_records.h"

namespace hobbit {

class Multidimensional : public EvictionPolicy {
  public:
    Multidimensional(const EvictionModel & model, double lru, double lfu, double lhu, double fld)
        : records_(model), lru_(lru), lfu_(lfu), lhu_(lhu), fld_(fld) {}

    const char * name() const override { return "multidimensional"; }
    void         on_route(const Routing & routing) override { records_.on_route(routing); }
    double       score(ExpertKey key) const override;
    void         reset() override { records_.reset(); }

  private:
    SequenceRecords records_;
    double          lru_, lfu_, lhu_, fld_;
};

} // namespace hobbit
