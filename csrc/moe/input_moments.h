// Second moments of what experts are multiplied with: which inputs go together (feedback/round_rows.h).
//
// Of an input of n_in numbers x, sums of x x' by blocks of columns. Experts have their own where the model's all fit
// in a given memory. Otherwise a layer's experts share those of the input that they share, and the inputs of down
// projections, of which every expert has its own, have none.
#pragma once

#include "moe/layer_view.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit {

constexpr size_t moments_block = 256;

// Numbers in the lower triangles of all blocks of n_in columns.
size_t n_moments(size_t n_in);

class InputMoments {
  public:
    // Of one matrix.
    struct Sums {
        size_t              n_groups = 0; // n_expert; 1: of all experts together; 0: not recorded
        std::vector<float>  sums;         // [n_groups][n_moments(n_in)], lower triangles by rows; empty until seen
        std::vector<double> n_rows;       // [n_groups]
    };

    // Takes at most max_bytes. Of matrices with the same input only the first in the graph's order is recorded.
    InputMoments(const std::vector<LayerShapes> & layers, size_t max_bytes);

    // REQUIRES: as ImportanceRecorder::add.
    void add(const LayerView & view, const ExpertNode & node, const std::vector<int32_t> & ids);

    const Sums & of(uint16_t layer_idx, uint32_t part_idx) const { return layers_.at(layer_idx).at(part_idx); }

  private:
    void add_own(const ggml_tensor * input, const std::vector<int32_t> & ids, Sums & sums);
    void add_shared(const ggml_tensor * input, Sums & sums);
    void read_row(const ggml_tensor * input, size_t token, size_t used);
    void add_rows(float * sums, size_t n_in, size_t n_rows);

    std::vector<std::vector<Sums>> layers_; // [layer][part]
    std::vector<float>             rows_;   // [n][n_in] of one expert
};

} // namespace hobbit
