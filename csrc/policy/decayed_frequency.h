// Evicts the expert with the fewest recent uses: each use counts 1 and loses 2% with every further token.
#pragma once

#include "policy/eviction.h"

#include <array>

namespace hobbit {

class DecayedFrequency : public EvictionPolicy {
  public:
    static constexpr double decay = 0.98; // a token

    explicit DecayedFrequency(const std::vector<uint32_t> & n_expert);

    const char * name() const override { return "frequency"; }
    void         on_route(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) override;
    double       score(ExpertKey key) const override;
    void         reset() override {} // forgotten by decay: 200 tokens leave 2% of the last sequence's counts

  private:
    // Decayed when it is read, so that a token costs only its own experts. Both precisions of an expert share it.
    struct Record {
        double   value      = 0;
        uint64_t last_token = 0; // the layer's clock at which `value` was right
    };
    struct Layer {
        uint64_t            n_tokens = 0; // the layer's clock
        std::vector<Record> records;      // [expert]
    };

    double decayed(const Layer & layer, const Record & record) const;

    std::vector<Layer>       layers_;
    std::array<double, 2048> powers_; // decay^i; a victim scan calls score() for each slot, and pow() is slow
};

} // namespace hobbit
