#include "bindings/bindings.h"
#include "feedback/round_rows.h"

#include <algorithm>
#include <stdexcept>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace hobbit {

namespace {

template <typename T> using Array = py::array_t<T, py::array::c_style>;

// The array's numbers, of which there must be n.
template <typename T> T * checked(Array<T> & array, size_t n, const char * name) {
    if (static_cast<size_t>(array.size()) != n) {
        throw std::invalid_argument(std::string(name) + " has another size than the rows need");
    }
    return array.mutable_data();
}

void round_arrays(const RoundingFormat & format, Array<float> & weights, Array<float> & supers,
                  std::optional<Array<float>> & super_mins, Array<uint8_t> & levels, Array<int8_t> & steps,
                  std::optional<Array<uint8_t>> & minimums, Array<float> & moments, uint32_t n_rounds) {
    if (weights.ndim() != 2 || format.group < 16 || format.super_block % format.group != 0 ||
        feedback_block % format.super_block != 0 || static_cast<size_t>(weights.shape(1)) % format.super_block != 0 ||
        format.values.empty() || format.values.size() > max_levels || super_mins.has_value() != minimums.has_value()) {
        throw std::invalid_argument("rows that do not fit the format");
    }
    RoundingRows rows;
    rows.format           = &format;
    rows.n_rows           = static_cast<size_t>(weights.shape(0));
    rows.n_in             = static_cast<size_t>(weights.shape(1));
    const size_t n        = rows.n_rows * rows.n_in;
    const size_t rest     = rows.n_in % feedback_block;
    const size_t n_square = rows.n_in / feedback_block * feedback_block * feedback_block + rest * rest;
    rows.weights          = weights.data();
    rows.supers           = checked(supers, n / format.super_block, "supers");
    rows.levels           = checked(levels, n, "levels");
    rows.steps            = checked(steps, n / format.group, "steps");
    if (minimums.has_value()) {
        rows.super_mins = checked(*super_mins, n / format.super_block, "super_mins");
        rows.minimums   = checked(*minimums, n / format.group, "minimums");
    }
    if (std::any_of(rows.levels, rows.levels + n, [&](uint8_t level) { return level >= format.values.size(); })) {
        throw std::invalid_argument("a level that the format has no value for");
    }
    const float *                moments_data = checked(moments, n_square, "moments");
    const py::gil_scoped_release released;
    round_rows(rows, moments_data, n_rounds);
}

} // namespace

void bind_feedback(py::module_ & m) {
    py::class_<RoundingFormat>(m, "RoundingFormat", "How a type stores weights; see feedback/round_rows.h.")
        .def(py::init<>())
        .def_readwrite("group", &RoundingFormat::group)
        .def_readwrite("super_block", &RoundingFormat::super_block)
        .def_readwrite("values", &RoundingFormat::values)
        .def_readwrite("min_step", &RoundingFormat::min_step)
        .def_readwrite("max_step", &RoundingFormat::max_step)
        .def_readwrite("max_minimum", &RoundingFormat::max_minimum);
    m.def("round_rows", &round_arrays, py::arg("format"), py::arg("weights").noconvert(), py::arg("supers").noconvert(),
          py::arg("super_mins").noconvert(), py::arg("levels").noconvert(), py::arg("steps").noconvert(),
          py::arg("minimums").noconvert(), py::arg("moments").noconvert(), py::arg("n_rounds"),
          "Chooses levels, steps and minimums of rows once more, in place; see feedback/round_rows.h.");
}

} // namespace hobbit
