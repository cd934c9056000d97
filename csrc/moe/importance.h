// How much each input of each expert mattered on a text: what ggml's quantisers take as an importance matrix.
//
// For every matrix, sums of the squared inputs over the rows that the router sent to an expert, and their number
// (llama.cpp's definition, tools/imatrix), and which inputs go together.
#pragma once

#include "moe/input_moments.h"
#include "moe/layer_view.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class ImportanceRecorder {
  public:
    // One matrix of a layer's experts.
    struct Sums {
        std::vector<float>  squares; // [n_expert][n_in]
        std::vector<double> n_rows;  // [n_expert]
    };

    // `max_moments_bytes` bounds what moments() take.
    ImportanceRecorder(const std::vector<LayerShapes> & layers, size_t max_moments_bytes);

    // REQUIRES: the node's input was computed and its memory is not reused yet. `ids` is [n_tokens][n_used].
    void add(const LayerView & view, const ExpertNode & node, const std::vector<int32_t> & ids);

    const Sums &         of(uint16_t layer_idx, uint32_t part_idx) const { return layers_.at(layer_idx).at(part_idx); }
    const InputMoments & moments() const { return moments_; }

  private:
    std::vector<std::vector<Sums>> layers_; // [layer][part]
    std::vector<float>             row_;
    InputMoments                   moments_;
};

} // namespace hobbit
