#include "predict/trained_gates.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace hobbit {

void TrainedGates::set_rows(const uint16_t * rows, size_t n_rows) {
    n_rows_ = n_rows;
    aligned_.resize(n_rows * n_embd * sizeof(uint16_t) / sizeof(Aligned) + 1);
    std::memcpy(aligned_.front().values, rows, n_rows * n_embd * sizeof(uint16_t));
}

void TrainedGates::check(const PredictorModel & model) const {
    std::vector<uint32_t> n_expert; // of layers with experts
    std::copy_if(model.n_expert.begin(), model.n_expert.end(), std::back_inserter(n_expert),
                 [](uint32_t n) { return n > 0; });
    bool   fits  = layers.size() == model.n_expert.size() && n_embd > 0;
    size_t first = 0, place = 0;
    for (size_t i = 0; fits && i < layers.size(); i++) {
        size_t n_rows = 0;
        for (size_t d = 0; model.n_expert[i] > 0 && d <= n_ahead && place + d < n_expert.size(); d++) {
            n_rows += n_expert[place + d];
        }
        fits = layers[i].biases.size() == n_rows && (n_rows == 0 || layers[i].first_row == first);
        first += n_rows;
        place += model.n_expert[i] > 0 ? 1 : 0;
    }
    if (!fits || first != n_rows_) {
        throw std::invalid_argument("the gates were trained for another model");
    }
}

float as_chance(float value) {
    constexpr float steps = 2048.0f;
    return std::round(std::clamp(value, 0.0f, 1.0f) * steps) / steps;
}

} // namespace hobbit
