// What the graph runner needs to know of a model's experts; owned by the engine, outlives every graph.
#pragma once

#include "base/timeline.h"
#include "cache/copy_layout.h"
#include "ggml.h"
#include "loader/loader.h"
#include "moe/device_rounding.h"
#include "moe/expert_weights.h"
#include "moe/inner_graph.h"
#include "moe/route_log.h"
#include "policy/precision.h"
#include "policy/router_filter.h"
#include "predict/prefetch_planner.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

class ImportanceRecorder;

// One matrix of a layer's experts in one precision.
struct PartShape {
    MatrixKind kind = MatrixKind::gate;
    ggml_type  type = GGML_TYPE_F32;
    int64_t    n_in = 0, n_out = 0;
};

struct LayerShapes {
    uint32_t               n_expert = 0;        // 0: no experts in this layer
    std::vector<PartShape> parts[n_precisions]; // [precision][part_idx]; empty lo: there is no lo copy
};

// Counted by the graph runner; read from any thread.
struct StepCounters {
    std::atomic<uint64_t> n_layer_steps{0};
    std::atomic<uint64_t> n_unified_steps{0}; // of these, by UnifiedLayer
    std::atomic<uint64_t> n_tokens{0};        // tokens of graphs that had experts
    // Of (token, expert) pairs that a precision policy decided on, by what became of them.
    std::atomic<uint64_t> n_pairs_hi{0}, n_pairs_lo{0}, n_pairs_skipped{0};
    std::atomic<uint64_t> n_pairs_rerouted{0}; // (token, expert) pairs that a router filter put in place of others
    std::atomic<uint64_t> n_scored_rows{0};    // tokens x layers decided on
    std::atomic<uint64_t> dropped_mass_ppm{0}; // gate mass skipped, in millionths of a token's mass in a layer, summed
};

class DeviceTier;
class DeviceArena;
class LayerArea;

// Whether the host may multiply by experts that are not on the device.
enum class HostCompute : uint8_t {
    never,
    as_device, // where that gives the device's bits
    any,
};

struct ModelExperts {
    ModelExperts();
    ~ModelExperts();

    std::vector<LayerShapes> layers; // [layer_idx]
    const CopyLayouts *      layouts = nullptr;
    Loader *                 loader  = nullptr; // nullptr until the memory budget is set
    GgmlBufferPtr            host_buffer; // stands for the loader's arenas: kernels look at a weight's buffer type only
    // Of a device with memory of its own; nullptr: it multiplies by what the loader holds.
    DeviceTier *  tier         = nullptr;
    DeviceArena * device_arena = nullptr;
    // Of a device that computes with the host's memory, and takes sums by the size of a product: batches are put in
    // order (UnifiedLayer), where a layer's experts do not lie so, in the area. nullptr: there is none.
    bool        is_unified   = false;
    LayerArea * layer_area   = nullptr;
    HostCompute host_compute = HostCompute::any;
    // What it multiplies for one token as the device would. None in mixed precision.
    DeviceRounding device_rounding;
    int            n_spare_threads = 0; // of those that compute, to be left to reads (ThreadShare)
    // Set between graphs. Never nullptr.
    std::shared_ptr<const PrecisionPolicy> precision_policy = make_always_high();
    bool                                   skip_renorm      = false; // weights of the kept experts grow to the old sum
    std::unique_ptr<ImportanceRecorder>    importance;               // set while the inputs of experts are recorded
    Timeline *                             timeline = nullptr;       // outlives this; never nullptr while a graph runs
    // What is read ahead, and on whose word. Set between graphs.
    PrefetchOptions  prefetch;
    PredictorShared  predictor_shared;
    uint64_t         prefetch_version = 0; // changes with the two, and with router_filter
    uint64_t         sequence         = 0; // changes when a new one begins; set between graphs
    PredictorModel   predictor_model;
    PredictionCounts prediction_counts;
    // Lossy, and "none" unless asked for. Set between graphs.
    RouterFilterOptions       router_filter;
    uint64_t                  router_filter_version = 0;
    std::string               architecture;
    std::shared_ptr<RouteLog> route_log; // set between graphs; nullptr: nothing is recorded
    StepCounters              counters;

    // Somebody wants to know what is routed or predicted, or what goes into the experts: every router is looked at.
    bool is_recorded() const {
        return route_log != nullptr || importance != nullptr || predictor_shared.record != nullptr;
    }
    // Where a layer's experts are where it computes for good, in order, and need not be asked for. None: they are not.
    // REQUIRES: a loader.
    HeldSlots held(uint16_t layer_idx) const;
    // Whether the host may multiply so many tokens by this matrix of experts that are not on the device.
    bool may_compute(uint16_t layer_idx, uint32_t part_idx, uint32_t n_tokens) const;
    // Whether what it multiplies has the device's bits by kernels of our own.
    bool rounds_as_device(uint16_t layer_idx, uint32_t part_idx, uint32_t n_tokens) const;
    // Memory of the loader's, for ggml, which has no tensors of const data.
    WeightArea host_area(const std::byte * data) const { return {host_buffer.get(), const_cast<std::byte *>(data)}; }

    // Keeps the sentence for the caller of llama_decode, which itself reports only a number. Thread-safe.
    void   set_error(const Status & error);
    Status take_error(); // ok if there is none

  private:
    Mutex         mu_;
    Status error_ HOBBIT_GUARDED_BY(mu_);
};

// What the store's buffer type attaches (tensor->extra) to an expert tensor that llama.cpp allocates in it.
struct ExpertTensor {
    ModelExperts * model     = nullptr;
    uint16_t       layer_idx = 0;
    uint16_t       part_idx  = 0;
};

} // namespace hobbit
