#include "bindings/bindings.h"
#include "ggml-backend-impl.h"
#include "ggml.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "Native core of hobbit_py. Import llama_cpp first: its ggml is the one that is used.";
    m.attr("ggml_backend_api_version") = GGML_BACKEND_API_VERSION;
    m.def("ggml_version", [] { return std::string(ggml_version()); }, "Version of the ggml mapped into this process.");
    hobbit::bind_abort(m);
    hobbit::bind_errors(m);
    hobbit::bind_precision(m);
    hobbit::bind_policy(m);
    hobbit::bind_loader(m);
    hobbit::bind_tier(m);
    hobbit::bind_predict(m);
    hobbit::bind_trace(m);
    hobbit::bind_engine(m);
    hobbit::bind_feedback(m);
    hobbit::bind_replay(m);
    hobbit::bind_memory(m);
    hobbit::bind_vocabulary(m);
}
