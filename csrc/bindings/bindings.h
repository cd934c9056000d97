// One bind_* function a concept, called by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace hobbit {

void bind_abort(pybind11::module_ & m);
void bind_errors(pybind11::module_ & m);
void bind_engine(pybind11::module_ & m);
void bind_feedback(pybind11::module_ & m);
void bind_precision(pybind11::module_ & m);
void bind_memory(pybind11::module_ & m);
void bind_loader(pybind11::module_ & m);
void bind_tier(pybind11::module_ & m);
void bind_predict(pybind11::module_ & m);
void bind_policy(pybind11::module_ & m);
void bind_replay(pybind11::module_ & m);
void bind_vocabulary(pybind11::module_ & m);
void bind_trace(pybind11::module_ & m);

} // namespace hobbit
