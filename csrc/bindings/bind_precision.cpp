#include "bindings/bindings.h"
#include "policy/precision.h"

#include <cstring>
#include <pybind11/numpy.h>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace hobbit {

namespace {

// A policy written in Python. Called on the thread that computes the graph, once a token and layer, under no lock.
class PythonPrecision final : public PrecisionPolicy {
  public:
    explicit PythonPrecision(py::object policy) : policy_(std::move(policy)) {}
    ~PythonPrecision() override {
        py::gil_scoped_acquire gil;
        policy_ = py::object();
    }

    void choose(uint16_t layer_idx, const float * gate_weights, const Resident * resident, uint32_t n_used,
                Choice * choices) const override {
        py::gil_scoped_acquire gil;
        try {
            py::array_t<float>  weights(n_used, gate_weights);
            py::array_t<int8_t> copies(n_used);
            for (uint32_t i = 0; i < n_used; ++i) {
                copies.mutable_at(i) = static_cast<int8_t>(resident[i]);
            }
            const auto codes = py::array_t<int64_t, py::array::c_style | py::array::forcecast>(
                policy_.attr("choose")(layer_idx, weights, copies));
            if (codes.ndim() != 1 || codes.size() != static_cast<py::ssize_t>(n_used)) {
                throw std::runtime_error("it returned " + std::to_string(codes.size()) + " codes for " +
                                         std::to_string(n_used) + " experts");
            }
            for (uint32_t i = 0; i < n_used; ++i) {
                if (codes.at(i) < 0 || codes.at(i) > 3) {
                    throw std::runtime_error("it returned the code " + std::to_string(codes.at(i)) +
                                             ", known are 0 (skip), 1 (lo), 2 (hi) and 3 (promote)");
                }
                choices[i] = static_cast<Choice>(codes.at(i));
            }
        } catch (const std::exception & error) {
            // Leaves the graph as a plain error: a Python exception must not outlive the lock on the interpreter.
            throw std::runtime_error(std::string("the precision policy failed: ") + error.what());
        }
    }

  private:
    py::object policy_;
};

} // namespace

void bind_precision(py::module_ & m) {
    py::class_<PrecisionPolicy, std::shared_ptr<PrecisionPolicy>>(m, "PrecisionPolicy")
        .def(
            "choose",
            [](const PrecisionPolicy & policy, uint16_t layer_idx,
               const py::array_t<float, py::array::c_style | py::array::forcecast> &  gate_weights,
               const py::array_t<int8_t, py::array::c_style | py::array::forcecast> & resident) {
                const auto n = static_cast<uint32_t>(gate_weights.size());
                if (static_cast<uint32_t>(resident.size()) != n) {
                    throw std::invalid_argument("gate_weights and resident differ in length");
                }
                std::vector<Resident> copies(n);
                std::vector<Choice>   choices(n);
                std::memcpy(copies.data(), resident.data(), n);
                policy.choose(layer_idx, gate_weights.data(), copies.data(), n, choices.data());
                py::array_t<int8_t> codes(n);
                std::memcpy(codes.mutable_data(), choices.data(), n);
                return codes;
            },
            py::arg("layer_idx"), py::arg("gate_weights"), py::arg("resident"));
    m.def("always_high", [] { return std::shared_ptr<PrecisionPolicy>(make_always_high()); });
    m.def("always_low", [] { return std::shared_ptr<PrecisionPolicy>(make_always_low()); });
    m.def(
        "thresholds",
        [](float t1, float t2, bool lo_serves_hi) {
            return std::shared_ptr<PrecisionPolicy>(make_thresholds(t1, t2, lo_serves_hi));
        },
        py::arg("t1"), py::arg("t2"), py::arg("lo_serves_hi"));
    m.def(
        "weight_thresholds",
        [](double hi_above, float skip_below, float wait_above, double fall) {
            return std::shared_ptr<PrecisionPolicy>(make_weight_thresholds(hi_above, skip_below, wait_above, fall));
        },
        py::arg("hi_above"), py::arg("skip_below"), py::arg("wait_above"), py::arg("fall"));
    m.def(
        "mass_budget",
        [](float lo_mass, float skip_mass) {
            return std::shared_ptr<PrecisionPolicy>(make_mass_budget(lo_mass, skip_mass));
        },
        py::arg("lo_mass"), py::arg("skip_mass"));
    m.def(
        "python_precision",
        [](py::object policy) {
            return std::shared_ptr<PrecisionPolicy>(std::make_shared<PythonPrecision>(std::move(policy)));
        },
        py::arg("policy"));
}

} // namespace hobbit
