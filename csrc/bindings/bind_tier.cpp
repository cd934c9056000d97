#include "bindings/bindings.h"
#include "ggml-backend.h"
#include "tier/device_tier.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace py = pybind11;

namespace hobbit {

namespace {

struct DeviceInfo {
    std::string name, description;
    bool        is_gpu = false, is_unified = false;
    size_t      free_bytes = 0, total_bytes = 0;
};

std::vector<DeviceInfo> devices() {
    std::vector<DeviceInfo> infos;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        const auto         type   = ggml_backend_dev_type(device);
        DeviceInfo         info;
        info.name        = ggml_backend_dev_name(device);
        info.description = ggml_backend_dev_description(device);
        info.is_unified  = type == GGML_BACKEND_DEVICE_TYPE_IGPU;
        info.is_gpu      = info.is_unified || type == GGML_BACKEND_DEVICE_TYPE_GPU;
        ggml_backend_dev_memory(device, &info.free_bytes, &info.total_bytes);
        infos.push_back(info);
    }
    return infos;
}

} // namespace

void bind_tier(py::module_ & m) {
    py::class_<TierOptions>(m, "TierOptions")
        .def(py::init<>())
        .def_readwrite("expert_bytes", &TierOptions::expert_bytes)
        .def_readwrite("lo_share", &TierOptions::lo_share)
        .def_readwrite("ring_bytes", &TierOptions::ring_bytes)
        .def_readwrite("small_part_bytes", &TierOptions::small_part_bytes)
        .def_readwrite("chunk_bytes", &TierOptions::chunk_bytes)
        .def_readwrite("has_staging", &TierOptions::has_staging)
        .def_readwrite("promotion_margin", &TierOptions::promotion_margin)
        .def_readwrite("mixed_promotion_margin", &TierOptions::mixed_promotion_margin)
        .def_readwrite("eviction", &TierOptions::eviction);

    py::class_<TierStats>(m, "TierStats")
        .def_property_readonly("n_hits_hi", [](const TierStats & s) { return s.n_hits[0]; })
        .def_property_readonly("n_hits_lo", [](const TierStats & s) { return s.n_hits[1]; })
        .def_property_readonly("n_misses_hi", [](const TierStats & s) { return s.n_misses[0]; })
        .def_property_readonly("n_misses_lo", [](const TierStats & s) { return s.n_misses[1]; })
        .def_property_readonly("resident_bytes_hi", [](const TierStats & s) { return s.resident_bytes[0]; })
        .def_property_readonly("resident_bytes_lo", [](const TierStats & s) { return s.resident_bytes[1]; })
        .def_property_readonly("demand_bytes", [](const TierStats & s) { return s.copy.demand_bytes; })
        .def_property_readonly("background_bytes", [](const TierStats & s) { return s.copy.background_bytes; })
        .def_property_readonly("copy_us", [](const TierStats & s) { return s.copy.busy_us; })
        .def_readonly("n_promoted", &TierStats::n_promoted)
        .def_readonly("n_evictions", &TierStats::n_evictions)
        .def_readonly("n_device_parts", &TierStats::n_device_parts)
        .def_readonly("n_ahead_parts", &TierStats::n_ahead_parts)
        .def_readonly("n_staged_parts", &TierStats::n_staged_parts)
        .def_readonly("n_host_parts", &TierStats::n_host_parts)
        .def_readonly("wait_us", &TierStats::wait_us)
        .def_readonly("host_us", &TierStats::host_us);

    py::class_<DeviceInfo>(m, "DeviceInfo")
        .def_readonly("name", &DeviceInfo::name)
        .def_readonly("description", &DeviceInfo::description)
        .def_readonly("is_gpu", &DeviceInfo::is_gpu)
        .def_readonly("is_unified", &DeviceInfo::is_unified)
        .def_readonly("free_bytes", &DeviceInfo::free_bytes)
        .def_readonly("total_bytes", &DeviceInfo::total_bytes);

    m.def("devices", devices, "What this build of ggml can compute with.");
}

} // namespace hobbit
