#include "predict/stacked_gates.h"

#include <algorithm>
#include <cmath>

namespace hobbit {

void append_softmax(const float * logits, uint32_t n, std::vector<float> & rows) {
    const size_t first = rows.size();
    const float  max   = *std::max_element(logits, logits + n);
    float        sum   = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        rows.push_back(std::exp(logits[i] - max));
        sum += rows.back();
    }
    for (uint32_t i = 0; i < n; i++) {
        rows[first + i] /= sum;
    }
}

uint32_t StackedGates::predict(const PredictionTarget & target, std::vector<float> & rows) {
    if (target.gate_logits == nullptr) {
        return 0;
    }
    for (uint32_t t = 0; t < target.n_tokens; t++) {
        append_softmax(target.gate_logits + static_cast<size_t>(t) * target.n_expert, target.n_expert, rows);
    }
    return target.n_tokens;
}

} // namespace hobbit
