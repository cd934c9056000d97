#include "bindings/bindings.h"
#include "moe/route_log.h"

#include <pybind11/numpy.h>

namespace py = pybind11;

namespace hobbit {

namespace {

template <class T> py::array_t<T> to_array(const std::vector<T> & values, std::vector<py::ssize_t> shape) {
    return py::array_t<T>(std::move(shape), values.data());
}

} // namespace

void bind_trace(py::module_ & m) {
    py::class_<RouteLog, std::shared_ptr<RouteLog>>(m, "RouteLog")
        .def(py::init<>())
        .def_property_readonly_static("max_distance", [](py::object) { return RouteLog::max_distance; })
        .def_readonly("n_used", &RouteLog::n_used)
        .def_property_readonly("n_rows", &RouteLog::n_rows)
        .def("layer_idxs",
             [](const RouteLog & log) { return to_array(log.layer_idxs, {static_cast<py::ssize_t>(log.n_rows())}); })
        .def("expert_idxs",
             [](const RouteLog & log) {
                 return to_array(log.expert_idxs, {static_cast<py::ssize_t>(log.n_rows()), log.n_used});
             })
        .def("weights",
             [](const RouteLog & log) {
                 return to_array(log.weights, {static_cast<py::ssize_t>(log.n_rows()), log.n_used});
             })
        .def("predicted_idxs",
             [](const RouteLog & log) {
                 return to_array(log.predicted_idxs,
                                 {static_cast<py::ssize_t>(log.n_rows()), RouteLog::max_distance, log.n_used});
             })
        .def("predicted_weights",
             [](const RouteLog & log) {
                 return to_array(log.predicted_weights,
                                 {static_cast<py::ssize_t>(log.n_rows()), RouteLog::max_distance, log.n_used});
             })
        .def_property_readonly("has_trained", [](const RouteLog & log) { return !log.next_chances.empty(); })
        .def("trained_idxs",
             [](const RouteLog & log) {
                 return to_array(log.trained_idxs,
                                 {static_cast<py::ssize_t>(log.n_rows()), RouteLog::max_distance, log.n_used});
             })
        .def("trained_weights",
             [](const RouteLog & log) {
                 return to_array(log.trained_weights,
                                 {static_cast<py::ssize_t>(log.n_rows()), RouteLog::max_distance, log.n_used});
             })
        .def("next_chances", [](const RouteLog & log) {
            return to_array(log.next_chances, {static_cast<py::ssize_t>(log.n_rows()), log.max_expert});
        });
}

} // namespace hobbit
