// MoE-APEX's least cost used (doi 10.1145/3779212.3790187): what its uses in this sequence would cost to read again,
// and for the experts of the last forward pass how soon their layer comes. Nothing to tune.
#pragma once

#include "policy/sequence_records.h"

namespace hobbit {

class Lcu : public EvictionPolicy {
  public:
    explicit Lcu(const EvictionModel & model) : records_(model), lo_cost_(model.lo_cost) {}

    const char * name() const override { return "lcu"; }
    void         on_route(const Routing & routing) override { records_.on_route(routing); }
    double       score(ExpertKey key) const override;
    void         reset() override { records_.reset(); }

  private:
    SequenceRecords records_;
    double          lo_cost_;
};

} // namespace hobbit
