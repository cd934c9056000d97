// SpecMD's least-stale (arXiv 2602.03921): what this forward pass used stays longest, since what is left of earlier
// ones is stale; among equals the first layers go first, which are needed again last, and within a layer the oldest.
#pragma once

#include "policy/sequence_records.h"

namespace hobbit {

class LeastStale : public EvictionPolicy {
  public:
    explicit LeastStale(const EvictionModel & model) : records_(model) {}

    const char * name() const override { return "least-stale"; }
    void         on_route(const Routing & routing) override { records_.on_route(routing); }
    double       score(ExpertKey key) const override;
    void         reset() override { records_.reset(); }

  private:
    SequenceRecords records_;
};

} // namespace hobbit
