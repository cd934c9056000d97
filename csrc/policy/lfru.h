// Least frequently and recently used: uses in this sequence over the tokens since the last one.
#pragma once

#include "policy/sequence_records.h"

namespace hobbit {

class Lfru : public EvictionPolicy {
  public:
    explicit Lfru(const EvictionModel & model) : records_(model) {}

    const char * name() const override { return "lfru"; }
    void         on_route(const Routing & routing) override { records_.on_route(routing); }
    double       score(ExpertKey key) const override;
    void         reset() override { records_.reset(); }

  private:
    SequenceRecords records_;
};

} // namespace hobbit
