// Gates trained on text (hobbit_py.predict.gates): a linear map for each layer of its router's input. It says what the
// routers of the next layers will make of the token, better than those routers applied to that input, and with which
// chance the next token uses each expert of the layer itself.
#pragma once

#include "predict/predictor.h"

#include <cstdint>
#include <vector>

namespace hobbit {

struct TrainedGates {
    struct Layer {
        size_t             first_row = 0; // of the rows of all layers
        std::vector<float> biases;        // [n_rows]; empty: a layer without experts
    };

    uint32_t           n_embd  = 0;
    uint32_t           n_ahead = 0; // layers that a layer tells of, the last ones fewer
    std::vector<Layer> layers;      // [n_layers]

    // Takes rows of F16, [n_rows][n_embd]: of each layer in turn first one an expert of its own, for the next token,
    // then those of the layers ahead, the nearest first.
    void             set_rows(const uint16_t * rows, size_t n_rows);
    const uint16_t * row(size_t row) const { return aligned_.front().values + row * n_embd; }
    size_t           n_rows() const { return n_rows_; }

    // Throws std::invalid_argument if they are of another model.
    void check(const PredictorModel & model) const;

  private:
    struct alignas(64) Aligned { // as ggml wants tensors
        uint16_t values[32];
    };
    std::vector<Aligned> aligned_;
    size_t               n_rows_ = 0;
};

// What a linear map says of a chance, as one: 0 to 1, in steps that an F16 holds, so that a trace has the very number.
float as_chance(float value);

} // namespace hobbit
