// Products with experts that lie in the host's memory, for nodes whose input and output lie on another device.
#pragma once

#include "moe/expert_matmul.h"
#include "moe/loaded_weights.h"
#include "tier/tier_costs.h"

#include <deque>
#include <vector>

namespace hobbit {

class HostProducts {
  public:
    explicit HostProducts(ggml_backend_t device);

    void set_n_threads(int n_threads);

    // Fetches the node's input: itself, or its twin in Q8_0 (QuantizedInputs), which is multiplied by as the device
    // does it. REQUIRES: it was computed; the layer's nodes are begun in graph order.
    void begin(const ExpertNode & node, const ggml_tensor * input, const DeviceReads & reads);
    // Multiplies rows of a node that was begun. Done after compute() and send(). REQUIRES: the part of every expert is
    // there.
    Status add(const ExpertNode & node, const LayerView & view, const LayerStep & step, const LoadedWeights & weights,
               const std::vector<uint32_t> & key_idxs);
    // Computes what was added.
    Status compute();
    // Sends the rows that were computed to the device, in the order of what it is given.
    void send(const LayerStep & step);
    // Forgets the nodes that were begun.
    void clear();

    // Of what compute() did last.
    const HostWork & work() const { return work_; }

  private:
    // A node's twin over copies of its input and output.
    struct Mirror {
        ExpertNode             node; // of the twin
        ggml_tensor            output{};
        ggml_tensor            input{};
        ggml_tensor *          original = nullptr;
        const ggml_tensor *    source   = nullptr; // of the input
        std::vector<std::byte> input_data;
        std::vector<std::byte> output_data;
        std::vector<uint32_t>  key_idxs; // added and not sent
    };

    Mirror & mirror_of(const ExpertNode & node);
    void     send_rows(const Mirror & mirror, const LayerStep & step);

    ggml_backend_t     device_;
    GgmlBackendPtr     host_;
    GgmlBufferPtr      buffer_; // stands for the copies: kernels look at the buffer's type only
    InnerGraph         graph_;
    ExpertMatmul       matmul_;
    std::deque<Mirror> mirrors_; // kept for their memory; addresses stay
    size_t             n_mirrors_ = 0;

    HostWork              work_;  // of the last compute()
    HostWork              added_; // since
    std::vector<uint32_t> rows_;
};

} // namespace hobbit
