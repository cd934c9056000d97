// What counts of a layer's routing get wrong about its next token, learned while it runs: a linear model of which
// experts the last token used in the layer itself, in the one routed before it and in the one routed after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit {

class Correction {
  public:
    // Where the last token used an expert.
    enum class Place : uint8_t { before, own, after };

    // Numbers of experts of the three layers.
    Correction(uint32_t n_before, uint32_t n_own, uint32_t n_after)
        : first_row_{0, n_before, n_before + n_own}, n_own_(n_own),
          weights_((size_t{n_before} + n_own + n_after) * n_own), sum_(n_own) {}

    // What it takes for layers of these sizes.
    static uint64_t n_bytes(uint32_t n_before, uint32_t n_own, uint32_t n_after) {
        return (uint64_t{n_before} + n_own + n_after) * n_own * sizeof(float);
    }

    // A token begins to be last: forgets which experts were added, not what was learned of them.
    void clear();
    // It used the experts `idxs` [n].
    void add(Place place, const int32_t * idxs, uint32_t n);
    // What the experts that were added say, [n_own], to be added to the counted chances.
    const std::vector<double> & sum() const { return sum_; }

    // The token after used the experts `idxs` [n], where chances `counted` [n_own] had been counted: each expert that
    // was added takes its part of `rate` times the error. Does nothing if none was.
    void learn(double rate, const std::vector<double> & counted, const int32_t * idxs, uint32_t n);

  private:
    size_t              first_row_[3]; // [place]
    size_t              n_own_;
    std::vector<float>  weights_; // [row][n_own]
    std::vector<size_t> rows_;    // that were added
    std::vector<double> sum_;
    std::vector<double> step_;
};

} // namespace hobbit
