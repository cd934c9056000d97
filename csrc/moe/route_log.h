// What routers chose and what would have been predicted, token by token, for a trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit {

// A row is a token in a layer. Written by the thread that computes, to be read between two graphs.
struct RouteLog {
    static constexpr uint32_t max_distance = 3; // layers ahead that are predicted

    uint32_t              n_used = 0;        // of the first row; a layer with another number is refused
    std::vector<uint16_t> layer_idxs;        // [row]
    std::vector<int32_t>  expert_idxs;       // [row][n_used], the router's best first
    std::vector<float>    weights;           // [row][n_used]; 0 where the architecture's weights are not recognised
    std::vector<int32_t>  predicted_idxs;    // [row][max_distance][n_used], likeliest first; -1: nothing was predicted
    std::vector<float>    predicted_weights; // [row][max_distance][n_used], softmax over all experts of that layer

    // Of gates trained for the model, if there are any; else empty.
    std::vector<int32_t> trained_idxs; // as the predictions
    std::vector<float>   trained_weights;
    uint32_t             max_expert = 0; // of any layer
    std::vector<float>   next_chances; // [row][max_expert], of being used by the next token; NaN: nothing was predicted

    size_t n_rows() const { return layer_idxs.size(); }
};

} // namespace hobbit
