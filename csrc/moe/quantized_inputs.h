// Inputs of a layer's expert nodes, quantised by the device for the host that multiplies beside it: a CPU may divide
// otherwise, and what is cut to eight bits is a fourth to send.
#pragma once

#include "moe/inner_graph.h"

#include <cstddef>
#include <deque>

namespace hobbit {

class QuantizedInputs {
  public:
    explicit QuantizedInputs(ggml_backend_t backend) : scratch_(backend) {}

    // Another layer. REQUIRES: what was added was computed.
    void clear();
    // The input's twin in Q8_0, which is made by a node that is added to the run unless that was done before. nullptr:
    // there is no room for it. REQUIRES: what computes the input was computed or added.
    const ggml_tensor * add(InnerGraph & graph, const ggml_tensor * input);
    // That twin; nullptr: there is none.
    const ggml_tensor * of(const ggml_tensor * input) const;

  private:
    struct Twin {
        const ggml_tensor * input = nullptr;
        ggml_tensor         quants{};
    };

    DeviceScratch    scratch_;
    std::deque<Twin> twins_; // at the same addresses in every layer, so that a GPU meets the same nodes
    size_t           n_twins_ = 0;
    size_t           n_bytes_ = 0;
};

} // namespace hobbit
