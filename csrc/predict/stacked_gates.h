// The routers of the layers ahead, applied to this layer's router input: the residual stream changes little from layer
// to layer (HOBBIT, arXiv 2411.01433, section 3.3).
#pragma once

#include "predict/predictor.h"

namespace hobbit {

class StackedGates final : public Predictor {
  public:
    const char * name() const override { return "stacked-gates"; }
    bool         wants_gates() const override { return true; }
    uint32_t     predict(const PredictionTarget & target, std::vector<float> & rows) override;
};

// Appends exp(logits) / sum, [n].
void append_softmax(const float * logits, uint32_t n, std::vector<float> & rows);

} // namespace hobbit
