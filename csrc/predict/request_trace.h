// Predicts from the requests that were most like this one (MoE-Infinity, arXiv 2401.14361, section 5).
//
// The paper matches the matrix of the pass at work; early in a pass that has almost no mass, so what is matched here is
// the request's own matrix with the pass included, and that counts as one more match. Similarities are kept up to date
// as layers select: a layer's row changes one block of each dot product.
#pragma once

#include "predict/predictor.h"
#include "predict/request_traces.h"

namespace hobbit {

class RequestTrace final : public Predictor {
  public:
    // `traces` may be empty, then only the request itself is known.
    RequestTrace(const PredictorModel & model, std::shared_ptr<RequestTraces> traces);
    ~RequestTrace() override; // the request ends

    const char * name() const override { return "request-trace"; }
    void         begin_sequence() override;
    void         begin_pass(const int32_t * token_ids, uint32_t n_tokens) override;
    void         observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) override;
    uint32_t     predict(const PredictionTarget & target, std::vector<float> & rows) override;

    // A pass of more tokens is a prompt's; the first one after decoding begins a request.
    static constexpr uint32_t max_decode_tokens = 8;

  private:
    static constexpr size_t n_matches = 8;

    struct Matched {
        size_t idx;
        double similarity;
    };

    void end_request();
    void begin_matching();
    void match();

    PredictorModel                            model_;
    std::vector<size_t>                       first_cell_; // [layer]
    std::shared_ptr<RequestTraces>            traces_;
    std::vector<float>                        request_[n_phases]; // [n_cells] of the request so far
    Phase                                     phase_ = Phase::decode;
    std::shared_ptr<const RequestTraces::Set> known_;       // of this phase, as it was when the phase began
    std::vector<double>                       dots_;        // [known_] with the request
    double                                    squares_ = 0; // of the request's counts
    std::vector<Matched>                      matched_;     // the best, valid until the next layer selects
    bool                                      is_matched_ = false;
};

} // namespace hobbit
