// What predictors saw and what layers then selected, for training. Filled by one context at a time, between two takes.
#pragma once

#include <cstdint>
#include <vector>

namespace hobbit {

struct PredictionRecord {
    uint32_t n_used     = 0;
    uint32_t n_ahead    = 0; // layers
    uint32_t max_expert = 0; // of any layer
    uint64_t n_passes   = 0;

    // A row for each token and layer: [pass number, place in the batch, layer, token or -1, experts selected x n_used].
    static constexpr uint32_t n_head = 4;
    std::vector<int32_t>      selections; // [n_rows][n_head + n_used]
    // The logits of the routers ahead, NaN where there is none.
    std::vector<float> gates; // [n_rows][n_ahead][max_expert]
    // If asked for, what trained gates are fitted to: the router's input, as gates ahead get it, and what the router
    // made of it before biases and sigmoids, NaN beyond the layer's experts.
    bool               keeps_inputs = false;
    uint32_t           n_embd       = 0;
    std::vector<float> inputs; // [n_rows][n_embd]
    std::vector<float> logits; // [n_rows][max_expert]
    // Each layer's router, as it is applied to such an input.
    std::vector<std::vector<float>> routers; // [n_layers][n_expert][n_embd]; empty: none seen
};

} // namespace hobbit
