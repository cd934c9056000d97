// What the input of a router is multiplied by in one product: rows for the layer itself and for those after it.
#pragma once

#include "moe/expert_weights.h"
#include "moe/inner_graph.h"
#include "moe/model_experts.h"
#include "moe/routers.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

// Consecutive rows [n_embd] of one type.
struct GateRows {
    WeightArea    area;
    ggml_type     type   = GGML_TYPE_F32;
    uint32_t      n_rows = 0;
    const float * biases = nullptr; // [n_rows], to be added to the product; nullptr: none
};

class GateBank {
  public:
    virtual ~GateBank() = default;

    // Prepares for these routers of a graph. False: there is nothing to multiply by.
    virtual bool begin(const ModelExperts & model, const std::vector<Router> & routers) = 0;

    // The rows of `source` (place in `routers`) for itself, if `with_own`, and for the n_ahead layers after it.
    // REQUIRES: begin() was true for these routers.
    virtual GateRows rows(const std::vector<Router> & routers, size_t source, bool with_own, size_t n_ahead) const = 0;

    // Layers ahead of any that it has rows for.
    virtual size_t max_ahead() const = 0;
    // Whether the norm's weights are divided out of an input before it is multiplied.
    virtual bool divides_norm() const = 0;
};

// The routers themselves, copied once into one matrix, of which the next ones are consecutive rows (HOBBIT's stacking
// computer, arXiv 2411.01433, section 3.3). Where every router's input is a normalised residual times a vector of
// weights, that of each is folded into its rows, to be applied to an input without: then the guess differs from the
// truth by the residual's change alone, and one expert in two hundred more is guessed right.
std::unique_ptr<GateBank> make_router_bank(ggml_backend_t backend);

// Gates that were trained for the model (predict/trained_gates.h).
std::unique_ptr<GateBank> make_trained_bank(ggml_backend_t backend);

} // namespace hobbit
