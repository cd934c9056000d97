// The only place where C++ failures become Python exceptions.
#include "bindings/bindings.h"
#include "store/store_error.h"

#include <system_error>

namespace py = pybind11;

namespace hobbit {

namespace {

PyObject * store_error = nullptr; // lives as long as the process

// A damaged file's names may be no UTF-8; they must not make another error of this one.
void raise_store_error(const std::string & message) {
    PyObject * text = PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace");
    if (text != nullptr) {
        PyErr_SetObject(store_error, text);
        Py_DECREF(text);
    }
}

} // namespace

void bind_errors(py::module_ & m) {
    py::exception<StoreError> type(m, "StoreError", PyExc_ValueError);
    type.doc()  = "A model file is missing, damaged or of the wrong kind.";
    store_error = type.release().ptr();
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            std::rethrow_exception(p);
        } catch (const StoreError & e) {
            raise_store_error(e.what());
        } catch (const std::system_error & e) {
            py::set_error(PyExc_OSError, py::make_tuple(e.code().value(), std::string(e.what())));
        }
    });
}

} // namespace hobbit
