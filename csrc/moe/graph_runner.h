// Executes llama.cpp's graph: ordinary nodes on the inner device in runs as long as possible, experts through the
// loader.
//
// Where all experts of a layer are resident, their matmuls are replaced by products over slots and stay part of the
// run: the graph is cut once a layer, to read the router's choice. Where some are missing, ArrivingLayer computes the
// resident ones while the others are read. A device with memory of its own has TieredLayer and, for batches,
// StagedLayer for that; one that shares the host's has UnifiedLayer for batches. Where all of a layer is there for
// good, the graph is not cut at all.
#pragma once

#include "moe/arriving_layer.h"
#include "moe/both_gates.h"
#include "moe/expert_matmul.h"
#include "moe/inner_graph.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "moe/loaded_weights.h"
#include "moe/look_ahead.h"
#include "moe/route_recorder.h"
#include "moe/router_filter_step.h"
#include "moe/staged_layer.h"
#include "moe/thread_share.h"
#include "moe/tiered_layer.h"
#include "moe/unified_layer.h"

#include <optional>
#include <vector>

namespace hobbit {

// One for each backend instance of the device, hence for each context. Used by one thread at a time.
class GraphRunner {
  public:
    GraphRunner(ggml_backend_t inner, IsExpertBuffer is_expert_buffer);
    GraphRunner(const GraphRunner &)             = delete; // its parts know each other
    GraphRunner & operator=(const GraphRunner &) = delete;

    // Threads to compute with from the next graph on: on the CPU all of it, else what the host does beside the device.
    void set_n_threads(int n_threads);

    // On failure the reason is with the model whose experts the graph uses (ModelExperts::take_error).
    ggml_status compute(ggml_cgraph * graph) noexcept;

  private:
    Status compute_run(DeviceReads * reads = nullptr); // what is in inner_, recorded on the model's timeline
    Status compute_to_router();
    Status run(ggml_cgraph * graph, ModelExperts *& model);
    void   begin_pass(ggml_cgraph * graph);
    void   set_inner_threads(int n_threads);
    Status compute_layer(ggml_cgraph * graph);
    void   add_in_order(ggml_cgraph * graph, int first_idx, HeldSlots held);
    Status add_resident(ggml_cgraph * graph, int first_idx, const ExpertWeights & weights);
    void   end_layer();
    void   tend_to_layer();

    ggml_backend_t   inner_backend_;
    IsExpertBuffer   is_expert_buffer_;
    const bool       is_gpu_; // the inner device fuses nodes, and has memory of its own
    InnerGraph       inner_;
    ExpertMatmul     matmul_;
    LayerView        view_;
    LayerStep        step_;
    BothGates        gates_;
    DeviceReads      reads_; // of the run that ended at the router
    RouterFilterStep filter_;
    RouteRecorder    recorder_;
    LookAhead        ahead_;
    TieredLayer      tiered_;   // where the inner device has a tier of its own
    StagedLayer      staged_;   // there, of batches
    UnifiedLayer     unified_;  // where it computes with the host's memory, of batches
    ArrivingLayer    arriving_; // where the loader reads what is missing

    int         n_threads_   = GGML_DEFAULT_N_THREADS;
    int         n_computing_ = 0; // that the inner device was told; 0: nothing yet
    uint64_t    pass_us_     = 0; // when it began
    ThreadShare thread_share_;

    std::optional<LoadedWeights> weights_; // where it multiplies by what the loader holds
    const std::vector<int32_t>   every_lease_;
};

} // namespace hobbit
