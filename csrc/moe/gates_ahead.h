// Gates applied to the input of the router at work, in one product in the run of that router: those of the next layers,
// to know early what they will select.
#pragma once

#include "moe/device_reads.h"
#include "moe/gate_bank.h"
#include "moe/inner_graph.h"
#include "predict/prefetch_planner.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

// What is to be known of each router's input.
struct GateNeeds {
    uint32_t n_layers    = 0;     // ahead
    bool     own         = false; // GateLogits::own
    bool     keeps_input = false; // GateLogits::input

    bool any() const { return n_layers > 0 || own; }
};

class GatesAhead {
  public:
    // Larger batches need most of a layer's experts, whatever is predicted.
    static constexpr int64_t max_tokens = 8;

    GatesAhead(ggml_backend_t backend, std::unique_ptr<GateBank> bank)
        : bank_(std::move(bank)), input_(backend), output_(backend) {}

    // Looks up the routers of a graph. `model` may be nullptr where nothing is needed.
    void begin_graph(ggml_cgraph * graph, const ModelExperts * model, const GateNeeds & needs);

    // To be called with every ordinary node that is added.
    void on_node(const ggml_tensor * node);
    // Adds the product for the router seen last, if it was not added.
    void add_product(InnerGraph & inner);

    // What read() will need of the run.
    void want(DeviceReads & reads) const;
    // What the gates said at the router of `layer_idx`. REQUIRES: the run with that router was computed.
    const GateLogits & read(uint16_t layer_idx, const DeviceReads & reads);

    // The router of a layer as it is applied to an input, F32 [n_expert][n_embd]; empty: not of this graph.
    std::vector<float> router_of(uint16_t layer_idx) const;

  private:
    ggml_tensor * prepare_input(InnerGraph & inner, const Router & source);
    void          split(const Router & router, uint32_t first_row, std::vector<float> & logits) const;
    void          complete(const Router & router, std::vector<float> & logits) const;

    std::unique_ptr<GateBank>       bank_;
    DeviceScratch                   input_;   // of the product, without the norm's weights
    DeviceScratch                   output_;  // of the product
    std::vector<Router>             routers_; // in graph order
    GateNeeds                       needs_;
    size_t                          next_router_ = 0;
    bool                            is_due_      = false; // the product of the router before it
    ggml_tensor                     product_{};           // F32 [rows, n_tokens]
    ggml_tensor                     made_of_{};           // F32 [n_embd, n_tokens], its input
    const float *                   biases_  = nullptr;
    size_t                          source_  = 0; // the router whose input it was made from
    uint32_t                        n_ahead_ = 0; // layers in it
    bool                            is_made_ = false;
    bool                            is_read_ = false;
    std::vector<float>              values_;
    std::vector<std::vector<float>> logits_; // [layers ahead]
    std::vector<float>              own_;
    std::vector<float>              kept_input_;
    GateLogits                      gates_;
};

} // namespace hobbit
