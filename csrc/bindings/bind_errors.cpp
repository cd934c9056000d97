// The only place where C++ failures become Python exceptions.
#include "bindings/bindings.h"
#include "store/store_error.h"

#include <system_error>

namespace py = pybind11;

namespace hobbit {

void bind_errors(py::module_ & m) {
    py::register_exception<StoreError>(m, "StoreError", PyExc_ValueError).doc() =
        "A model file is missing, damaged or of the wrong kind.";
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            std::rethrow_exception(p);
        } catch (const std::system_error & e) {
            py::set_error(PyExc_OSError, py::make_tuple(e.code().value(), std::string(e.what())));
        }
    });
}

} // namespace hobbit
