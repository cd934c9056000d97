// Wires the parts of one loaded model together and owns nothing else's work.
#pragma once

#include "device/store_buffer.h"
#include "engine/copy_file.h"
#include "io/reader.h"
#include "loader/loader.h"
#include "moe/device_arena.h"
#include "moe/importance.h"
#include "moe/layer_area.h"
#include "moe/model_experts.h"
#include "predict/hybrid.h"
#include "predict/prefetch_planner.h"
#include "predict/request_traces.h"
#include "predict/trained_gates.h"
#include "store/dense_stream.h"
#include "store/expert_store.h"
#include "store/gguf_model.h"
#include "tier/device_tier.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace hobbit {

struct EngineOptions {
    std::string lo_path;              // GGUF with the lo copies; empty: none
    std::string hi_path;              // GGUF with the hi copies; empty: the experts of the model are those
    std::string inner_device = "CPU"; // ggml's name of it
    uint32_t    n_io_threads = 4;
    bool        direct_io    = true;
    bool        is_unified   = false; // it computes with the host's memory, and is no CPU: see ModelExperts
};

class Engine {
  public:
    // Opens and checks the files; reads no tensor. Throws StoreError, std::system_error.
    Engine(const std::string & path, const EngineOptions & options);
    // REQUIRES: the llama_model loaded with it was freed.
    ~Engine();
    Engine(const Engine &)             = delete;
    Engine & operator=(const Engine &) = delete;

    const GgufModel &   model() const { return model_; }
    const ExpertStore & store() const { return store_; } // the model's own experts
    const CopyLayouts & layouts() const { return layouts_; }
    bool                has_lo() const { return lo_ != nullptr; }
    uint64_t            lo_expert_bytes() const { return has_lo() ? lo_->store.expert_bytes() : 0; }
    uint64_t            hi_expert_bytes() const { return hi_store().expert_bytes(); }
    double              min_lo_bits() const { return has_lo() ? lo_->min_bits() : 0.0; } // 0: there are none
    uint32_t            n_expert_used() const { return n_expert_used_; }

    // For llama_model_params: devices, tensor_buft_overrides; and the FILE* to load from, valid until close_stream().
    ggml_backend_dev_t         device() const { return device_; }
    ggml_backend_buffer_type_t buffer_type() { return buffer_type_->get(); }
    DenseStream &              open_stream();
    void                       close_stream();
    std::string                stream_error() const { return stream_ ? stream_->error() : std::string(); }

    // Gives the experts their memory; again to change it. Before set_device_memory(). REQUIRES: no graph is being
    // computed. Throws std::bad_alloc, std::invalid_argument.
    void     set_expert_memory(LoaderOptions options);
    Loader * loader() { return loader_.get(); }

    // Gives the experts memory of the inner device, above the loader's. REQUIRES: set_expert_memory(); no graph is
    // being computed. Throws std::bad_alloc, std::invalid_argument.
    void         set_device_memory(const TierOptions & options);
    DeviceTier * tier() { return tier_.get(); }
    // Where every expert has a slot on the device in this precision: brings them all there. Throws StoreError for a
    // failed read.
    void fill_device_memory(Precision precision);
    // Of the threads that compute, to be left to reads while those are waited for. To be called between graphs.
    void set_spare_threads(int n_threads) { experts_.n_spare_threads = n_threads; }
    // Whether the host may multiply by experts that are not on the device; none: where it has the device's bits, or,
    // with lo copies, always. REQUIRES: no graph is being computed.
    void set_host_compute(std::optional<bool> host_compute);
    // Whether experts are copied, or some of their matrices, that the host might sooner multiply by with other bits.
    // REQUIRES: set_device_memory().
    bool is_host_held_back() const;
    // Whether what the host multiplies for single tokens has the device's bits, whichever experts it is.
    bool has_device_rounding() const { return experts_.device_rounding.covers_all(); }
    // For tests: as if the device were a GPU that rounds as kernels do that were made for others.
    void assume_device_rounding();
    // Memory on the device for every expert in one precision, and what `options` take of it in all.
    uint64_t all_device_bytes(Precision precision) const;
    uint64_t device_bytes(const TierOptions & options) const;
    // Of TierOptions::expert_bytes, the least with which batches are llama.cpp's products (tier/staging.h); 0: with lo
    // copies they never are.
    uint64_t least_device_bytes() const { return has_lo() ? 0 : staged_bytes(device_layouts_); }
    uint64_t device_expert_bytes() const; // slots made

    // From the next graph on. REQUIRES: no graph is being computed.
    void set_precision_policy(std::shared_ptr<const PrecisionPolicy> policy, bool skip_renorm);

    // From the next graph on, what is read ahead. Throws std::invalid_argument for unknown names, and for a predictor
    // that has to be trained before it has weights. REQUIRES: no graph is being computed.
    void set_prefetch(const PrefetchOptions & options);
    // Throws std::invalid_argument if they are of another model. REQUIRES: no graph is being computed.
    void set_hybrid_weights(std::shared_ptr<const HybridWeights> weights);
    // For the predictor "trained-gates", and what the eviction policy is told of the next token; nullptr: none. Throws
    // likewise. REQUIRES: no graph is being computed.
    void set_trained_gates(std::shared_ptr<const TrainedGates> gates);
    // What contexts learn of requests; belongs to the engine's whole life.
    RequestTraces & request_traces() { return *experts_.predictor_shared.traces; }
    // For predictors: what comes next does not go on with what came before.
    void begin_sequence() { experts_.sequence++; }
    // Records from the next graph on what predictors see; nullptr ends that. REQUIRES: no graph is being computed.
    void set_prediction_record(std::shared_ptr<PredictionRecord> record);
    // From the next graph on; lossy. Throws std::invalid_argument. REQUIRES: no graph is being computed.
    void set_router_filter(const RouterFilterOptions & options);

    const PredictorModel &   predictor_model() const { return experts_.predictor_model; }
    const PredictionCounts & prediction_counts() const { return experts_.prediction_counts; }

    // Sums up the inputs of every expert from the next graph on; again to start from zero. REQUIRES: no graph is being
    // computed. Throws std::bad_alloc.
    void                       record_importance(size_t max_moments_bytes);
    const ImportanceRecorder * importance() const { return experts_.importance.get(); }

    Timeline & timeline() { return timeline_; }

    // Records into a log from the next graph on; nullptr: no more. REQUIRES: no graph is being computed.
    void set_route_log(std::shared_ptr<RouteLog> log) { experts_.route_log = std::move(log); }

    const ModelExperts & experts() const { return experts_; }
    uint32_t             alignment() const { return reader_ ? reader_->alignment() : 1; }

    // Memory besides the arenas of slots: stream buffers, the reader's own, and what looking ahead takes.
    uint64_t io_bytes(const LoaderOptions & options) const;
    // Slots (one a size class) that every layer's experts of one token would fill.
    uint64_t token_slot_bytes() const;
    uint64_t all_slots_bytes(Precision precision) const; // every expert
    // The most that a device with the host's memory takes besides, where not every expert has a slot.
    uint64_t layer_area_bytes() const;

    const StepCounters & counters() const { return experts_.counters; }
    // What made llama_decode fail; ok if nothing did. Taken once.
    Status take_error() { return experts_.take_error(); }

  private:
    static constexpr uint64_t no_limit = UINT64_MAX >> 1; // of a device's buffers

    MakeArena           device_visible_memory() const;
    const GgufModel &   hi_model() const { return hi_ ? hi_->model : model_; }
    const ExpertStore & hi_store() const { return hi_ ? hi_->store : store_; }
    std::set<RowShape>  row_shapes() const;      // of all experts as in the model
    uint64_t            gate_bank_bytes() const; // a context's copy of the routers, for looking ahead
    void                describe_layers();
    void                choose_host_compute();
    void                make_layer_area(const MakeArena & make_arena);

    GgufModel                        model_;
    ExpertStore                      store_;
    std::unique_ptr<CopyFile>        hi_; // nullptr: those of the model
    std::unique_ptr<CopyFile>        lo_;
    uint32_t                         n_expert_used_ = 0;
    EngineOptions                    options_;
    Timeline                         timeline_;
    std::unique_ptr<Reader>          reader_;
    CopyLayouts                      layouts_;
    CopyLayouts                      device_layouts_;
    uint64_t                         device_part_bytes_ = 0; // of the largest matrix on the inner device
    ModelExperts                     experts_;
    ggml_backend_dev_t               inner_device_    = nullptr;
    ggml_backend_dev_t               device_          = nullptr;
    bool                             is_other_device_ = false; // than the host, with kernels of its own
    std::optional<bool>              host_compute_;
    std::unique_ptr<StoreBufferType> buffer_type_;
    std::unique_ptr<DenseStream>     stream_;
    std::unique_ptr<LayerArea>       layer_area_;
    std::unique_ptr<Loader>          loader_;
    std::unique_ptr<DeviceArena>     device_arena_;
    std::unique_ptr<DeviceTier>      tier_; // last: what it is copying lies in the loader's memory
};

} // namespace hobbit
