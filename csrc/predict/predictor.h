// Guesses which experts the coming layers will select. Pure: no locks but that of shared traces, no IO, no ggml.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

class RequestTraces;
struct HybridWeights;
struct TrainedGates;
struct PredictionRecord;

// What a predictor knows of the model.
struct PredictorModel {
    std::vector<uint32_t> n_expert; // [n_layers]; layers without experts have 0
    uint32_t              n_used = 0;
};

// What a router's input is multiplied by, to guess of the layers ahead.
enum class Gates : uint8_t { none, routers, trained };

// A layer whose experts are to be guessed, as seen from the layer at work.
struct PredictionTarget {
    uint16_t      layer_idx        = 0;
    uint16_t      source_layer_idx = 0;
    uint32_t      distance    = 1; // layers with experts from the one at work to this one; beyond the last: next token
    uint32_t      n_expert    = 0;
    uint32_t      n_tokens    = 0;       // of the batch at work
    const float * gate_logits = nullptr; // [n_tokens][n_expert], as Predictor::gates() says, of the input of the
                                         // router at work; nullptr: not known
};

// One a context, used by its thread.
class Predictor {
  public:
    virtual ~Predictor() = default;

    virtual const char * name() const = 0;

    // What it wants to know of the input of the router at work (PredictionTarget::gate_logits).
    virtual Gates gates() const { return Gates::none; }

    // What comes next does not go on with what came before.
    virtual void begin_sequence() {}

    // A forward pass over these tokens begins; token_ids [n_tokens], or nullptr if they are not known.
    virtual void begin_pass(const int32_t * token_ids, uint32_t n_tokens) { (void)token_ids, (void)n_tokens; }

    // A layer selected expert_idxs [n_tokens][n_used]; layers come in the model's order, each once a pass.
    virtual void observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
        (void)layer_idx, (void)expert_idxs, (void)n_used, (void)n_tokens;
    }

    // Shares of the gate weight that the target's experts will have: appends rows of [n_expert], each with sum 1, one
    // for each token or one for all, and returns how many; 0: no idea. Called after observe() of the source layer.
    virtual uint32_t predict(const PredictionTarget & target, std::vector<float> & rows) = 0;
};

// What contexts of one model share; each may be empty.
struct PredictorShared {
    std::shared_ptr<RequestTraces>       traces;
    std::shared_ptr<const HybridWeights> hybrid;
    std::shared_ptr<const TrainedGates>  trained;
    std::shared_ptr<PredictionRecord>    record;
};

//   "stacked-gates"   the target's own router on the input of the router at work (HOBBIT, arXiv 2411.01433, 3.3)
//   "trained-gates"   the same with a map that was trained on text in place of that router
//   "previous-token"  what the token before selected there
//   "request-trace"   the requests most like this one so far (MoE-Infinity, arXiv 2401.14361)
//   "hybrid"          stacked gates, corrected by a ridge model of tokens and history (ExpertFlow, arXiv 2510.26730)
//   "none"            nothing
// Throws std::invalid_argument for another name, and for what has to be trained and was not.
std::unique_ptr<Predictor> make_predictor(const std::string & name, const PredictorModel & model,
                                          const PredictorShared & shared);

} // namespace hobbit
