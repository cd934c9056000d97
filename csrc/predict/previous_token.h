// What the token before selected in the same layer: the least a predictor has to beat.
#pragma once

#include "predict/predictor.h"

namespace hobbit {

class PreviousToken final : public Predictor {
  public:
    explicit PreviousToken(const PredictorModel & model) : last_(model.n_expert.size()) {}

    const char * name() const override { return "previous-token"; }
    void         begin_sequence() override { last_.assign(last_.size(), {}); }
    void         observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) override;
    uint32_t     predict(const PredictionTarget & target, std::vector<float> & rows) override;

  private:
    std::vector<std::vector<int32_t>> last_; // [layer][n_used] of the last token
};

} // namespace hobbit
