// hobbit(X): a ggml device that wraps another one. Everything is the inner device's (memory, operations, ordinary
// nodes) except matmuls over expert tensors, which go through the graph runner.
#pragma once

#include "ggml-backend-impl.h"

#include <string>

namespace hobbit {

// The device that wraps `inner_name` ("CPU"); nullptr if there is no such device. One a process and inner device. It is
// not entered in ggml's registry, where models loaded without us would find it: llama.cpp is handed the pointer.
ggml_backend_dev_t decorated_device(const std::string & inner_name);

} // namespace hobbit
