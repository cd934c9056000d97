// The routers of the layers ahead, applied to this layer's router input: the residual stream changes little from layer
// to layer (HOBBIT, arXiv 2411.01433, section 3.3). Or maps that were trained in place of these routers.
#pragma once

#include "predict/predictor.h"

namespace hobbit {

class StackedGates final : public Predictor {
  public:
    explicit StackedGates(Gates gates = Gates::routers) : gates_(gates) {}

    const char * name() const override { return gates_ == Gates::trained ? "trained-gates" : "stacked-gates"; }
    Gates        gates() const override { return gates_; }
    uint32_t     predict(const PredictionTarget & target, std::vector<float> & rows) override;

  private:
    Gates gates_;
};

// Appends exp(logits) / sum, [n].
void append_softmax(const float * logits, uint32_t n, std::vector<float> & rows);

} // namespace hobbit
