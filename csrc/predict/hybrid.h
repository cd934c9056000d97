// Stacked gates, corrected by what a ridge model learned from the tokens and the experts that were used before (after
// ExpertFlow, arXiv 2510.26730, whose random forest it stands in for). hobbit_py.predictor_training fits the weights.
#pragma once

#include "predict/predictor.h"

namespace hobbit {

// The correction of one target layer seen from one distance: a linear map of binary features to a shift of each
// expert's logit. Features: the experts that the source layer selected, those the target selected for the token before,
// the token (those that the training text had often; all others share the last), and 1.
struct HybridMap {
    std::vector<float> shifts; // [n_features][n_expert]; empty: no correction
};

struct HybridWeights {
    std::vector<int32_t>                token_rows; // [n_vocab] feature of a token, below n_token_rows
    uint32_t                            n_token_rows = 0;
    std::vector<std::vector<HybridMap>> maps; // [layer][distance - 1]
};

class Hybrid final : public Predictor {
  public:
    // Throws std::invalid_argument if the weights are of another model.
    Hybrid(const PredictorModel & model, std::shared_ptr<const HybridWeights> weights);

    const char * name() const override { return "hybrid"; }
    Gates        gates() const override { return Gates::routers; }
    void         begin_sequence() override;
    void         begin_pass(const int32_t * token_ids, uint32_t n_tokens) override;
    void         observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) override;
    uint32_t     predict(const PredictionTarget & target, std::vector<float> & rows) override;

  private:
    void add_row(const HybridMap & map, size_t feature, uint32_t n_expert);

    PredictorModel                       model_;
    std::shared_ptr<const HybridWeights> weights_;
    std::vector<int32_t>                 token_rows_; // [n_tokens] of the pass
    std::vector<std::vector<int32_t>>    last_;       // [layer] of the last token of the pass before
    std::vector<std::vector<int32_t>>    now_;        // [layer][n_tokens][n_used] of this pass, empty: not yet selected
    std::vector<float>                   logits_;
};

} // namespace hobbit
