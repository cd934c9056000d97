#include "bindings/bindings.h"
#include "engine/engine.h"

#include <algorithm>
#include <numeric>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace hobbit {

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::shared_ptr<HybridWeights> make_hybrid_weights(const std::vector<int32_t> & token_rows, uint32_t n_token_rows,
                                                   const std::vector<std::vector<Floats>> & maps) {
    auto weights          = std::make_shared<HybridWeights>();
    weights->token_rows   = token_rows;
    weights->n_token_rows = n_token_rows;
    for (const std::vector<Floats> & of_layer : maps) {
        weights->maps.emplace_back();
        for (const Floats & map : of_layer) {
            weights->maps.back().push_back({{map.data(), map.data() + map.size()}});
        }
    }
    return weights;
}

using Halves = py::array_t<uint16_t, py::array::c_style>; // the bits of F16

// rows [n_rows, n_embd] of all layers, biases [n_layers] of a number for each of a layer's rows.
std::shared_ptr<TrainedGates> make_trained_gates(uint32_t n_ahead, const Halves & rows,
                                                 const std::vector<std::vector<float>> & biases) {
    if (rows.ndim() != 2) {
        throw std::invalid_argument("rows must be [n_rows, n_embd]");
    }
    auto gates     = std::make_shared<TrainedGates>();
    gates->n_ahead = n_ahead;
    gates->n_embd  = static_cast<uint32_t>(rows.shape(1));
    size_t row     = 0;
    for (const std::vector<float> & of_layer : biases) {
        gates->layers.push_back({row, of_layer});
        row += of_layer.size();
    }
    gates->set_rows(rows.data(), static_cast<size_t>(rows.shape(0)));
    return gates;
}

template <typename T> py::array_t<T> as_array(const std::vector<T> & values, size_t n_rows, size_t n_columns) {
    py::array_t<T> out({n_rows, n_columns});
    std::copy(values.begin(), values.end(), out.mutable_data());
    return out;
}

} // namespace

void bind_predict(py::module_ & m) {
    py::class_<PrefetchOptions>(m, "PrefetchOptions")
        .def(py::init<>())
        .def_readwrite("predictor", &PrefetchOptions::predictor)
        .def_readwrite("horizon", &PrefetchOptions::horizon)
        .def_readwrite("depth", &PrefetchOptions::depth);

    py::class_<HybridWeights, std::shared_ptr<HybridWeights>>(m, "HybridWeights")
        .def(py::init(&make_hybrid_weights), py::arg("token_rows"), py::arg("n_token_rows"), py::arg("maps"));

    py::class_<TrainedGates, std::shared_ptr<TrainedGates>>(m, "TrainedGates")
        .def(py::init(&make_trained_gates), py::arg("n_ahead"), py::arg("rows"), py::arg("biases"));

    py::class_<PredictionRecord, std::shared_ptr<PredictionRecord>>(m, "PredictionRecord")
        .def(py::init([](bool keeps_inputs) {
                 auto record          = std::make_shared<PredictionRecord>();
                 record->keeps_inputs = keeps_inputs;
                 return record;
             }),
             py::arg("keeps_inputs") = false)
        .def(
            "take",
            [](PredictionRecord & r) {
                const size_t width  = PredictionRecord::n_head + r.n_used;
                const size_t n_rows = r.selections.size() / width;
                auto         taken  = py::make_tuple(
                    as_array(r.selections, n_rows, width),
                    as_array(r.gates, n_rows, static_cast<size_t>(r.n_ahead) * r.max_expert)
                        .reshape({n_rows, static_cast<size_t>(r.n_ahead), static_cast<size_t>(r.max_expert)}),
                    as_array(r.inputs, r.keeps_inputs ? n_rows : 0, r.n_embd),
                    as_array(r.logits, r.keeps_inputs ? n_rows : 0, r.max_expert));
                r.selections.clear();
                r.gates.clear();
                r.inputs.clear();
                r.logits.clear();
                return taken;
            },
            "(selections [n, 4 + n_used], gates [n, n_ahead, n_expert], inputs [n, n_embd], logits [n, n_expert]), "
            "the last two empty unless they are kept; what was taken is forgotten.")
        .def(
            "router",
            [](const PredictionRecord & r, size_t layer_idx) {
                const std::vector<float>   none;
                const std::vector<float> & rows = layer_idx < r.routers.size() ? r.routers[layer_idx] : none;
                return as_array(rows, r.n_embd == 0 ? 0 : rows.size() / r.n_embd, r.n_embd);
            },
            py::arg("layer_idx"), "A layer's router as it is applied to such inputs, [n_expert, n_embd].");

    py::class_<RouterFilter>(m, "RouterFilter")
        .def(py::init([](const std::string & name, float strength, uint32_t n_protected, float fall) {
                 return make_router_filter({name, strength, n_protected, fall});
             }),
             py::arg("name"), py::arg("strength"), py::arg("n_protected"), py::arg("fall") = 0.0f)
        .def(
            "select",
            [](RouterFilter & filter, uint16_t layer_idx, const Floats & scores, const std::vector<bool> & resident,
               uint32_t n_used) {
                const auto           n = static_cast<uint32_t>(scores.size());
                std::vector<int32_t> order(n);
                std::iota(order.begin(), order.end(), 0);
                const float * values = scores.data();
                std::stable_sort(order.begin(), order.end(),
                                 [values](int32_t a, int32_t b) { return values[a] > values[b]; });
                std::vector<Resident> copies(n, Resident::none);
                for (uint32_t i = 0; i < n; ++i) {
                    copies[i] = resident.at(i) ? Resident::hi : Resident::none;
                }
                filter.select(layer_idx, values, copies.data(), n, n_used, order.data());
                order.resize(n_used);
                return order;
            },
            py::arg("layer_idx"), py::arg("scores"), py::arg("resident"), py::arg("n_used"));

    py::class_<RequestTraces>(m, "RequestTraces")
        .def_property_readonly("n_cells", &RequestTraces::n_cells)
        .def(
            "add",
            [](RequestTraces & traces, bool of_prompts, const Floats & counts) {
                traces.insert(of_prompts ? Phase::prompt : Phase::decode,
                              {counts.data(), counts.data() + counts.size()});
            },
            py::arg("of_prompts"), py::arg("counts"))
        .def(
            "matrices",
            [](const RequestTraces & traces, bool of_prompts) {
                const auto                      set = traces.snapshot(of_prompts ? Phase::prompt : Phase::decode);
                std::vector<py::array_t<float>> out;
                for (const auto & matrix : *set) {
                    out.emplace_back(static_cast<py::ssize_t>(matrix->counts.size()), matrix->counts.data());
                }
                return out;
            },
            py::arg("of_prompts"), "Tokens sent to each expert by each request that is kept, [n_cells].");
}

} // namespace hobbit
