#include "engine/engine.h"

#include "device/device.h"
#include "engine/fill_tier.h"
#include "io/pread_reader.h"
#include "store/read_range.h"
#include "store/store_error.h"
#include "store/weights_check.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

namespace hobbit {

namespace {

constexpr uint64_t device_alignment = 256;  // at least what any ggml device asks for
constexpr uint64_t drive_alignment  = 4096; // at least what any drive asks for

// Slots for all experts of a layer in hi, of the largest among those whose class is asked for.
template <typename IsWanted> uint64_t largest_layer_bytes(const CopyLayouts & layouts, IsWanted is_wanted) {
    uint64_t bytes = 0;
    for (const CopyLayout & layout : layouts.layouts[static_cast<int>(Precision::hi)]) {
        if (layout.n_expert > 0 && is_wanted(layout.class_idx)) {
            bytes = std::max(bytes, layout.n_expert * layouts.classes[layout.class_idx].slot_bytes);
        }
    }
    return bytes;
}

} // namespace

Engine::Engine(const std::string & path, const EngineOptions & options)
    : model_(GgufModel::open(path)), store_(model_), options_(options) {
    check_computable(model_);
    const auto open_copies = [this](const std::string & copies_path, const char * precision) {
        auto copies = copies_path.empty() ? nullptr : std::make_unique<CopyFile>(copies_path, precision);
        if (copies) {
            copies->check(model_, store_);
        }
        return copies;
    };
    hi_ = open_copies(options_.hi_path, "hi");
    lo_ = open_copies(options_.lo_path, "lo");
    if (!store_.is_moe()) {
        return; // runs as plain llama.cpp
    }
    n_expert_used_ = static_cast<uint32_t>(
        std::max<int64_t>(1, model_.get_int(model_.get_string("general.architecture") + ".expert_used_count", 1)));

    std::vector<std::string> paths = hi_model().paths();
    if (lo_) {
        paths.insert(paths.end(), lo_->model.paths().begin(), lo_->model.paths().end());
    }
    reader_           = make_pread_reader(paths, {options_.n_io_threads, options_.direct_io, &timeline_});
    experts_.timeline = &timeline_;
    device_           = decorated_device(options_.inner_device);
    if (device_ == nullptr) {
        throw StoreError("there is no device named " + options_.inner_device + " in this build of llama-cpp-python");
    }
    inner_device_    = ggml_backend_dev_by_name(options_.inner_device.c_str());
    is_other_device_ = ggml_backend_dev_type(inner_device_) != GGML_BACKEND_DEVICE_TYPE_CPU;
    choose_host_compute();
    describe_layers();
    std::unordered_map<std::string, ExpertTensor> tensors;
    for (const ExpertLayer & layer : store_.layers()) {
        for (size_t i = 0; i < layer.matrices.size(); ++i) {
            tensors[layer.matrices[i].tensor_name] = {&experts_, layer.layer_idx, static_cast<uint16_t>(i)};
        }
    }
    auto read = [this](const std::string & name, uint64_t offset, std::byte * dst, uint64_t n_bytes) {
        for (const TensorInfo & t : model_.tensors()) {
            if (t.name == name) {
                return read_range(model_.paths()[t.extent.file_idx], t.extent.offset + offset, dst, n_bytes);
            }
        }
        return Status::error("no tensor named " + name);
    };
    buffer_type_ = std::make_unique<StoreBufferType>(device_, std::move(tensors), read);
}

Engine::~Engine() = default;

void Engine::describe_layers() {
    std::vector<CopySpec>      specs;
    uint64_t                   buffer_multiple = device_alignment;
    ggml_backend_buffer_type_t device_type     = ggml_backend_dev_buffer_type(inner_device_);
    const auto                 describe        = [&](const ExpertStore & store, Precision precision) {
        for (const ExpertLayer & layer : store.layers()) {
            if (store_.find_layer(layer.layer_idx) == nullptr) {
                continue; // a file of copies may hold more than is needed
            }
            CopySpec spec;
            spec.layer_idx = layer.layer_idx;
            spec.precision = precision;
            spec.n_expert  = layer.n_expert;
            spec.n_used    = n_expert_used_;
            if (experts_.layers.size() <= layer.layer_idx) {
                experts_.layers.resize(layer.layer_idx + 1u);
            }
            LayerShapes & shapes = experts_.layers[layer.layer_idx];
            shapes.n_expert      = layer.n_expert;
            for (const ExpertMatrix & m : layer.matrices) {
                ggml_tensor matrix{};
                // A CPU multiplies by slots wherever they are.
                spec.slot_multiple = is_other_device_ ? std::lcm(spec.slot_multiple, ggml_type_size(m.type)) : 1;
                matrix.type        = m.type;
                matrix.ne[0]       = m.n_in;
                matrix.ne[1]       = m.n_out;
                matrix.ne[2] = matrix.ne[3] = 1;
                matrix.nb[0]                = ggml_type_size(m.type);
                matrix.nb[1]                = ggml_row_size(m.type, m.n_in);
                matrix.nb[2] = matrix.nb[3] = matrix.nb[1] * static_cast<uint64_t>(m.n_out);
                const uint64_t device_bytes = ggml_backend_buft_get_alloc_size(device_type, &matrix);
                device_part_bytes_          = std::max(device_part_bytes_, device_bytes);
                buffer_multiple             = std::lcm(buffer_multiple, ggml_type_size(m.type));
                spec.parts.push_back({m.extent.offset, m.expert_bytes, device_bytes});
                shapes.parts[static_cast<int>(precision)].push_back({m.kind, m.type, m.n_in, m.n_out});
            }
            specs.push_back(std::move(spec));
        }
    };
    describe(hi_store(), Precision::hi);
    if (lo_) {
        describe(lo_->store, Precision::lo);
    }
    // One product reads from several buffers: strides are counted in blocks of a type.
    device_part_bytes_    = align_up(device_part_bytes_, buffer_multiple);
    layouts_              = make_copy_layouts(specs, reader_->alignment());
    device_layouts_       = make_device_layouts(specs, device_alignment);
    experts_.layouts      = &layouts_;
    experts_.architecture = model_.get_string("general.architecture");

    PredictorModel & model = experts_.predictor_model;
    model.n_used           = n_expert_used_;
    for (const LayerShapes & shapes : experts_.layers) {
        model.n_expert.push_back(shapes.n_expert);
    }
    experts_.predictor_shared.traces =
        std::make_shared<RequestTraces>(std::accumulate(model.n_expert.begin(), model.n_expert.end(), size_t{0}));
}

DenseStream & Engine::open_stream() {
    stream_ = std::make_unique<DenseStream>(model_, store_);
    buffer_type_->set_loading(true);
    return *stream_;
}

void Engine::close_stream() {
    stream_.reset();
    buffer_type_->set_loading(false);
}

// Host memory that the device reads directly or, copied from, at the link's full speed.
MakeArena Engine::device_visible_memory() const {
    ggml_backend_buffer_type_t type = ggml_backend_dev_host_buffer_type(inner_device_);
    if (type == nullptr) {
        return {};
    }
    return [type](uint64_t n_bytes) {
        if (n_bytes == 0) {
            return Arena();
        }
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, n_bytes + drive_alignment);
        if (buffer == nullptr) {
            throw std::bad_alloc();
        }
        const auto base = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
        return Arena(reinterpret_cast<std::byte *>(align_up(base, drive_alignment)), n_bytes,
                     [buffer] { ggml_backend_buffer_free(buffer); });
    };
}

void Engine::set_expert_memory(LoaderOptions options) {
    experts_.tier         = nullptr;
    experts_.device_arena = nullptr;
    tier_.reset();
    device_arena_.reset();
    experts_.loader = nullptr;
    loader_.reset(); // before the new one: both arenas at once would break the budget
    experts_.layer_area = nullptr;
    layer_area_.reset();
    if (!options.make_arena) {
        options.make_arena = device_visible_memory();
    }
    options.commit_ahead  = true;
    const auto n_hi_files = static_cast<uint32_t>(hi_model().paths().size());
    auto       extent_of  = [this, n_hi_files](ExpertKey key, uint32_t part_idx) {
        const bool          is_lo  = key.precision == Precision::lo;
        const ExpertStore & store  = is_lo ? lo_->store : hi_store();
        FileExtent          extent = store.extent(*store.find_layer(key.layer_idx), part_idx, key.expert_idx);
        extent.file_idx += is_lo ? n_hi_files : 0;
        return extent;
    };
    loader_ = std::make_unique<Loader>(layouts_, experts_.predictor_model.n_expert, extent_of, *reader_, options);
    experts_.loader = loader_.get();
    make_layer_area(options.make_arena);
}

void Engine::make_layer_area(const MakeArena & make_arena) {
    const uint64_t n_bytes = largest_layer_bytes(layouts_, [this](uint32_t class_idx) {
        return loader_->n_slots(static_cast<int32_t>(class_idx)) < layouts_.classes[class_idx].n_copies;
    });
    experts_.is_unified    = options_.is_unified;
    if (!options_.is_unified || has_lo() || n_bytes == 0) {
        return;
    }
    Arena arena = make_arena ? make_arena(n_bytes) : Arena(n_bytes);
    if (!arena.is_lazy()) { // else it is zero. Kernels read past the last row, where a NaN would count
        std::memset(arena.data(), 0, n_bytes);
    }
    layer_area_         = std::make_unique<LayerArea>(std::move(arena));
    experts_.layer_area = layer_area_.get();
}

uint64_t Engine::layer_area_bytes() const {
    const bool has_area = options_.is_unified && !has_lo();
    return has_area ? largest_layer_bytes(layouts_, [](uint32_t) { return true; }) : 0;
}

void Engine::set_device_memory(const TierOptions & options) {
    const uint64_t max_bytes =
        std::min<uint64_t>(ggml_backend_buft_get_max_size(ggml_backend_dev_buffer_type(inner_device_)), no_limit);
    const TierShape shape = shape_tier(device_layouts_, device_part_bytes_, max_bytes, options);
    device_arena_         = std::make_unique<DeviceArena>(inner_device_, shape.area_bytes);
    tier_ = std::make_unique<DeviceTier>(device_layouts_, experts_.predictor_model.n_expert, shape, *device_arena_,
                                         options);
    experts_.device_arena = device_arena_.get();
    experts_.tier         = tier_.get();
    if (is_other_device_ && !has_lo()) {
        experts_.device_rounding = DeviceRounding::tried(inner_device_, row_shapes());
    }
}

void Engine::assume_device_rounding() {
    is_other_device_         = true;
    experts_.device_rounding = DeviceRounding::assumed(row_shapes());
    choose_host_compute();
}

void Engine::set_host_compute(std::optional<bool> host_compute) {
    host_compute_ = host_compute;
    choose_host_compute();
}

void Engine::choose_host_compute() {
    const bool for_bits   = is_other_device_ && !options_.is_unified && !has_lo();
    const bool any        = host_compute_.value_or(!for_bits);
    experts_.host_compute = any ? HostCompute::any : host_compute_ ? HostCompute::never : HostCompute::as_device;
}

bool Engine::is_host_held_back() const {
    return experts_.host_compute == HostCompute::as_device && !experts_.device_rounding.covers_all();
}

std::set<RowShape> Engine::row_shapes() const {
    std::set<RowShape> shapes;
    for (const LayerShapes & layer : experts_.layers) {
        for (const PartShape & part : layer.parts[static_cast<int>(Precision::hi)]) {
            shapes.insert({part.type, part.n_in});
        }
    }
    return shapes;
}

void Engine::fill_device_memory(Precision precision) {
    if (Status status = fill_tier(*loader_, *tier_, precision); !status.ok()) {
        throw StoreError(status.message());
    }
}

void Engine::set_precision_policy(std::shared_ptr<const PrecisionPolicy> policy, bool skip_renorm) {
    experts_.precision_policy = std::move(policy);
    experts_.skip_renorm      = skip_renorm;
}

void Engine::record_importance(size_t max_moments_bytes) {
    experts_.importance.reset(); // before the new one: it takes as much memory again
    experts_.importance = std::make_unique<ImportanceRecorder>(experts_.layers, max_moments_bytes);
}

void Engine::set_prefetch(const PrefetchOptions & options) {
    PredictionCounts counts;
    PrefetchPlanner(options, experts_.predictor_model, experts_.predictor_shared, layouts_, counts); // or throws
    experts_.prefetch = options;
    experts_.prefetch_version++;
}

void Engine::set_hybrid_weights(std::shared_ptr<const HybridWeights> weights) {
    Hybrid(experts_.predictor_model, weights); // or throws
    experts_.predictor_shared.hybrid = std::move(weights);
    experts_.prefetch_version++;
}

void Engine::set_trained_gates(std::shared_ptr<const TrainedGates> gates) {
    if (gates != nullptr) {
        gates->check(experts_.predictor_model);
    }
    experts_.predictor_shared.trained = std::move(gates);
    experts_.prefetch_version++;
}

void Engine::set_prediction_record(std::shared_ptr<PredictionRecord> record) {
    experts_.predictor_shared.record = std::move(record);
    experts_.prefetch_version++;
}

void Engine::set_router_filter(const RouterFilterOptions & options) {
    make_router_filter(options); // or throws
    experts_.router_filter = options;
    experts_.router_filter_version++;
    experts_.prefetch_version++;
}

} // namespace hobbit
