// What llama.cpp takes for a model and a context. Its public C interface does not tell; the C++ function that its own
// fitting of models to devices uses does, and the exact version of llama-cpp-python is pinned.
#include "bindings/bindings.h"
#include "ggml-backend.h"

#include <cstddef>
#include <cstdint>
#include <map>

struct llama_context;

struct llama_memory_breakdown_data {
    size_t model   = 0;
    size_t context = 0;
    size_t compute = 0;
};

std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data> llama_get_memory_breakdown(const llama_context * ctx);

namespace py = pybind11;

namespace hobbit {

namespace {

// A context of a model without weights reports the size of an allocator once for each backend that shares it, and on
// the CPU all do: the decorated device if it has no memory of its own, accelerators without any, the CPU itself.
size_t n_backends_on_host(bool has_device_memory) {
    size_t n = has_device_memory ? 1 : 2;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        n += ggml_backend_dev_type(ggml_backend_dev_get(i)) == GGML_BACKEND_DEVICE_TYPE_ACCEL ? 1 : 0;
    }
    return n;
}

} // namespace

void bind_memory(py::module_ & m) {
    m.def(
        "memory_breakdown",
        [](uintptr_t context_address, uintptr_t store_buffer_type_address, bool dry) {
            llama_memory_breakdown_data host, device;
            bool                        has_device_memory = false;
            for (const auto & [type, data] :
                 llama_get_memory_breakdown(reinterpret_cast<const llama_context *>(context_address))) {
                const bool is_store = reinterpret_cast<uintptr_t>(type) == store_buffer_type_address;
                const bool is_host  = is_store || ggml_backend_buft_is_host(type);
                has_device_memory   = has_device_memory || !is_host;

                llama_memory_breakdown_data & sum = is_host ? host : device;
                sum.model += is_store ? 0 : data.model;
                sum.context += data.context;
                sum.compute += data.compute;
            }
            host.compute /= dry ? n_backends_on_host(has_device_memory) : 1;
            return py::make_tuple(host.model, host.context, host.compute,
                                  device.model + device.context + device.compute);
        },
        py::arg("context_address"), py::arg("store_buffer_type_address"), py::arg("dry"),
        "(model, context, compute, device) bytes of a llama_context, address space reserved for experts excluded; the "
        "last "
        "is all that lies in a device's own memory, and is not in the others. dry: the model was loaded without "
        "weights.");
}

} // namespace hobbit
