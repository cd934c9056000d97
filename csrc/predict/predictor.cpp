#include "predict/predictor.h"

#include "predict/hybrid.h"
#include "predict/previous_token.h"
#include "predict/request_trace.h"
#include "predict/stacked_gates.h"

#include <stdexcept>

namespace hobbit {

namespace {

class NoPredictor final : public Predictor {
  public:
    const char * name() const override { return "none"; }
    uint32_t     predict(const PredictionTarget &, std::vector<float> &) override { return 0; }
};

} // namespace

std::unique_ptr<Predictor> make_predictor(const std::string & name, const PredictorModel & model,
                                          const PredictorShared & shared) {
    if (name == "stacked-gates") {
        return std::make_unique<StackedGates>();
    }
    if (name == "trained-gates") {
        if (shared.trained == nullptr) {
            throw std::invalid_argument("the gates have to be trained for this model first");
        }
        return std::make_unique<StackedGates>(Gates::trained);
    }
    if (name == "previous-token") {
        return std::make_unique<PreviousToken>(model);
    }
    if (name == "request-trace") {
        return std::make_unique<RequestTrace>(model, shared.traces);
    }
    if (name == "hybrid") {
        if (shared.hybrid == nullptr) {
            throw std::invalid_argument("the hybrid predictor has to be trained for this model first");
        }
        return std::make_unique<Hybrid>(model, shared.hybrid);
    }
    if (name == "none") {
        return std::make_unique<NoPredictor>();
    }
    throw std::invalid_argument("unknown predictor '" + name +
                                "'; known are stacked-gates, trained-gates, previous-token, request-trace, "
                                "hybrid and none");
}

} // namespace hobbit
