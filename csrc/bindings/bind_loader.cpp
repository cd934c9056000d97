#include "bindings/bindings.h"
#include "loader/loader.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace hobbit {

void bind_loader(py::module_ & m) {
    py::enum_<Precision>(m, "Precision").value("hi", Precision::hi).value("lo", Precision::lo);

    py::class_<LoaderOptions>(m, "LoaderOptions")
        .def(py::init<>())
        .def_readwrite("expert_memory_bytes", &LoaderOptions::expert_memory_bytes)
        .def_readwrite("lo_share", &LoaderOptions::lo_share)
        .def_readwrite("stream_bytes", &LoaderOptions::stream_bytes)
        .def_readwrite("max_read_bytes", &LoaderOptions::max_read_bytes)
        .def_readwrite("fill", &LoaderOptions::fill)
        .def_readwrite("score_source", &LoaderOptions::score_source)
        .def_property(
            "eviction", [](const LoaderOptions & o) { return o.eviction.name; },
            [](LoaderOptions & o, std::string name) { o.eviction.name = std::move(name); })
        .def_property(
            "eviction_parameters", [](const LoaderOptions & o) { return o.eviction.parameters; },
            [](LoaderOptions & o, std::map<std::string, double> values) { o.eviction.parameters = std::move(values); });

    py::class_<LoaderStats>(m, "LoaderStats")
        .def_property_readonly("n_hits_hi", [](const LoaderStats & s) { return s.n_hits[0]; })
        .def_property_readonly("n_hits_lo", [](const LoaderStats & s) { return s.n_hits[1]; })
        .def_property_readonly("n_misses_hi", [](const LoaderStats & s) { return s.n_misses[0]; })
        .def_property_readonly("n_misses_lo", [](const LoaderStats & s) { return s.n_misses[1]; })
        .def_property_readonly("read_bytes_hi", [](const LoaderStats & s) { return s.read_bytes[0]; })
        .def_property_readonly("read_bytes_lo", [](const LoaderStats & s) { return s.read_bytes[1]; })
        .def_property_readonly("resident_bytes_hi", [](const LoaderStats & s) { return s.resident_bytes[0]; })
        .def_property_readonly("resident_bytes_lo", [](const LoaderStats & s) { return s.resident_bytes[1]; })
        .def_readonly("n_streamed", &LoaderStats::n_streamed)
        .def_readonly("n_reads", &LoaderStats::n_reads)
        .def_readonly("n_retries", &LoaderStats::n_retries)
        .def_readonly("n_evictions", &LoaderStats::n_evictions)
        .def_readonly("n_prefetched", &LoaderStats::n_prefetched)
        .def_readonly("n_prefetch_used", &LoaderStats::n_prefetch_used)
        .def_readonly("n_prefetch_late", &LoaderStats::n_prefetch_late)
        .def_readonly("n_prefetch_wasted", &LoaderStats::n_prefetch_wasted)
        .def_readonly("prefetched_bytes", &LoaderStats::prefetched_bytes)
        .def_readonly("prefetch_useful_bytes", &LoaderStats::prefetch_useful_bytes)
        .def_readonly("prefetch_late_bytes", &LoaderStats::prefetch_late_bytes)
        .def_readonly("prefetch_wasted_bytes", &LoaderStats::prefetch_wasted_bytes)
        .def_readonly("prefetch_cancelled_bytes", &LoaderStats::prefetch_cancelled_bytes)
        .def_readonly("n_upgraded", &LoaderStats::n_upgraded)
        .def_readonly("wanted_bytes", &LoaderStats::wanted_bytes)
        .def_readonly("stall_us", &LoaderStats::stall_us);
}

} // namespace hobbit
