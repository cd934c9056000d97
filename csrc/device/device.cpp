// ggml's tables for the decorated device; the work is in moe/.
#include "device/device.h"

#include "base/mutex.h"
#include "device/store_buffer.h"
#include "moe/graph_runner.h"

#include <cstring>
#include <memory>
#include <unordered_map>

namespace hobbit {

namespace {

struct Device {
    ggml_backend_dev_t  inner = nullptr;
    ggml_backend_device device{};
    ggml_backend_reg    reg{};
    std::string         name;
    std::string         description;
};

struct BackendFree {
    void operator()(ggml_backend_t b) const { ggml_backend_free(b); }
};

struct Backend {
    explicit Backend(ggml_backend_t inner_backend)
        : inner(inner_backend), runner(inner_backend, StoreBufferType::owns) {}

    std::unique_ptr<ggml_backend, BackendFree> inner;
    GraphRunner                                runner;
};

Device &  of(ggml_backend_dev_t dev) { return *static_cast<Device *>(dev->context); }
Backend & of(ggml_backend_t backend) { return *static_cast<Backend *>(backend->context); }

// backend

const char * backend_name(ggml_backend_t backend) { return ggml_backend_dev_name(backend->device); }

void backend_free(ggml_backend_t backend) {
    delete static_cast<Backend *>(backend->context);
    delete backend;
}

void backend_synchronize(ggml_backend_t backend) { ggml_backend_synchronize(of(backend).inner.get()); }

ggml_status backend_graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    return of(backend).runner.compute(graph);
}

// On the inner device's queue, behind what it computes.
void backend_set_tensor_async(ggml_backend_t backend, ggml_tensor * tensor, const void * data, size_t offset,
                              size_t size) {
    ggml_backend_tensor_set_async(of(backend).inner.get(), tensor, data, offset, size);
}

void backend_get_tensor_async(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset,
                              size_t size) {
    ggml_backend_tensor_get_async(of(backend).inner.get(), tensor, data, offset, size);
}

// CUDA fuses nodes if their tensors do not share memory, and asks the allocator for that here. Not fused, they round
// otherwise.
void backend_graph_optimize(ggml_backend_t backend, ggml_cgraph * graph, ggml_backend_graph_optimize_params * params) {
    ggml_backend_t inner = of(backend).inner.get();
    if (inner->iface.graph_optimize != nullptr) {
        inner->iface.graph_optimize(inner, graph, params);
    }
}

const ggml_backend_i backend_interface = {
    /* .get_name            = */ backend_name,
    /* .free                = */ backend_free,
    /* .set_tensor_async    = */ backend_set_tensor_async,
    /* .get_tensor_async    = */ backend_get_tensor_async,
    /* .set_tensor_2d_async = */ nullptr,
    /* .get_tensor_2d_async = */ nullptr,
    /* .cpy_tensor_async    = */ nullptr,
    /* .synchronize         = */ backend_synchronize,
    /* .graph_plan_create   = */ nullptr,
    /* .graph_plan_free     = */ nullptr,
    /* .graph_plan_update   = */ nullptr,
    /* .graph_plan_compute  = */ nullptr,
    /* .graph_compute       = */ backend_graph_compute,
    /* .event_record        = */ nullptr,
    /* .event_wait          = */ nullptr,
    /* .graph_optimize      = */ backend_graph_optimize,
};

ggml_guid backend_guid = {0x68, 0x6f, 0x62, 0x62, 0x69, 0x74, 0x5f, 0x70, 0x79, 0, 0, 0, 0, 0, 0, 1};

// device

const char * device_name(ggml_backend_dev_t dev) { return of(dev).name.c_str(); }
const char * device_description(ggml_backend_dev_t dev) { return of(dev).description.c_str(); }

void device_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    ggml_backend_dev_memory(of(dev).inner, free, total);
}

// llama.cpp gives layers to devices of type GPU only.
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

void device_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props             = {};
    props->name        = device_name(dev);
    props->description = device_description(dev);
    props->type        = device_type(dev);
    device_memory(dev, &props->memory_free, &props->memory_total);
}

ggml_backend_t device_init_backend(ggml_backend_dev_t dev, const char * params) {
    ggml_backend_t inner = ggml_backend_dev_init(of(dev).inner, params);
    if (inner == nullptr) {
        return nullptr;
    }
    return new ggml_backend{&backend_guid, backend_interface, dev, new Backend(inner)};
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t dev) {
    return ggml_backend_dev_buffer_type(of(dev).inner);
}

ggml_backend_buffer_type_t device_host_buffer_type(ggml_backend_dev_t dev) {
    return ggml_backend_dev_host_buffer_type(of(dev).inner);
}

bool in_store(const ggml_tensor * tensor) {
    return tensor != nullptr && tensor->buffer != nullptr && StoreBufferType::owns(tensor->buffer);
}

bool device_supports_op(ggml_backend_dev_t dev, const ggml_tensor * op) {
    bool reads_store = false;
    for (const ggml_tensor * src : op->src) {
        reads_store = reads_store || in_store(src);
    }
    if (!reads_store) {
        return ggml_backend_dev_supports_op(of(dev).inner, op);
    }
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true; // the scheduler aborts if nobody takes them
    case GGML_OP_MUL_MAT_ID: {
        if (!in_store(op->src[0]) || op->src[0]->view_src != nullptr) {
            return false;
        }
        // Asked as if the weights lay in the inner device's memory, where they will be.
        ggml_tensor weights = *op->src[0];
        ggml_tensor node    = *op;
        weights.buffer      = nullptr;
        weights.extra       = nullptr;
        node.src[0]         = &weights;
        return ggml_backend_dev_supports_op(of(dev).inner, &node);
    }
    default:
        return false;
    }
}

bool device_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) {
    return buft->device == dev || ggml_backend_dev_supports_buft(of(dev).inner, buft);
}

const ggml_backend_device_i device_interface = {
    /* .get_name             = */ device_name,
    /* .get_description      = */ device_description,
    /* .get_memory           = */ device_memory,
    /* .get_type             = */ device_type,
    /* .get_props            = */ device_props,
    /* .init_backend         = */ device_init_backend,
    /* .get_buffer_type      = */ device_buffer_type,
    /* .get_host_buffer_type = */ device_host_buffer_type,
    /* .buffer_from_host_ptr = */ nullptr,
    /* .supports_op          = */ device_supports_op,
    /* .supports_buft        = */ device_supports_buft,
    /* .offload_op           = */ nullptr,
    /* .event_new            = */ nullptr,
    /* .event_free           = */ nullptr,
    /* .event_synchronize    = */ nullptr,
};

// registry

const char *       reg_name(ggml_backend_reg_t) { return "hobbit"; }
size_t             reg_device_count(ggml_backend_reg_t) { return 1; }
ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t) { return &static_cast<Device *>(reg->context)->device; }

template <typename Function> Function inner_function(ggml_backend_t backend, const char * name) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(of(backend->device).inner);
    return reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(reg, name));
}

// Without this one the inner CPU would run with its default of four threads.
void set_n_threads(ggml_backend_t backend, int n_threads) { of(backend).runner.set_n_threads(n_threads); }

void set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void * data) {
    if (auto set = inner_function<ggml_backend_set_abort_callback_t>(backend, "ggml_backend_set_abort_callback")) {
        set(of(backend).inner.get(), callback, data);
    }
}

void * reg_proc_address(ggml_backend_reg_t, const char * name) {
    if (std::strcmp(name, "ggml_backend_set_n_threads") == 0) {
        return reinterpret_cast<void *>(set_n_threads);
    }
    if (std::strcmp(name, "ggml_backend_set_abort_callback") == 0) {
        return reinterpret_cast<void *>(set_abort_callback);
    }
    return nullptr;
}

const ggml_backend_reg_i reg_interface = {
    /* .get_name         = */ reg_name,
    /* .get_device_count = */ reg_device_count,
    /* .get_device       = */ reg_device,
    /* .get_proc_address = */ reg_proc_address,
};

struct Registry {
    Mutex                                                            mu;
    std::unordered_map<std::string, std::unique_ptr<Device>> devices HOBBIT_GUARDED_BY(mu);
};

Registry & registry() {
    static Registry * r = new Registry; // never freed: models may be closed while the process exits
    return *r;
}

} // namespace

ggml_backend_dev_t decorated_device(const std::string & inner_name) {
    MutexLock lock(registry().mu);
    auto &    entry = registry().devices[inner_name];
    if (entry == nullptr) {
        ggml_backend_dev_t inner = ggml_backend_dev_by_name(inner_name.c_str());
        if (inner == nullptr) {
            return nullptr;
        }
        entry              = std::make_unique<Device>();
        entry->inner       = inner;
        entry->name        = "hobbit(" + inner_name + ")";
        entry->description = std::string("experts on demand on ") + ggml_backend_dev_description(inner);
        entry->reg         = {GGML_BACKEND_API_VERSION, reg_interface, entry.get()};
        entry->device      = {device_interface, &entry->reg, entry.get()};
    }
    return &entry->device;
}

} // namespace hobbit
