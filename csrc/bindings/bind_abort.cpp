#include "bindings/bindings.h"
#include "device/abort_guard.h"

#include <memory>

namespace py = pybind11;

namespace hobbit {

namespace {

struct Guarded {
    std::unique_ptr<AbortGuard> guard;
    std::string                 message;
};

} // namespace

void bind_abort(py::module_ & m) {
    py::class_<Guarded>(m, "AbortGuard",
                        "A context manager: within it, an abort of ggml in this thread fails the call it happens in. "
                        "`message` says after it what the abort said.")
        .def(py::init<>())
        .def("__enter__",
             [](py::object self) {
                 self.cast<Guarded &>().guard = std::make_unique<AbortGuard>();
                 return self;
             })
        .def("__exit__",
             [](Guarded & guarded, const py::args &) {
                 guarded.message = AbortGuard::message();
                 guarded.guard.reset();
             })
        .def_readonly("message", &Guarded::message);
}

} // namespace hobbit
