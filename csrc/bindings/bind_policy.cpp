#include "bindings/bindings.h"
#include "loader/loader.h"
#include "policy/eviction.h"
#include "policy/score_source.h"

#include <algorithm>
#include <cstring>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <stdexcept>

namespace py = pybind11;

namespace hobbit {

namespace {

using Ids     = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Codes   = py::array_t<int8_t, py::array::c_style | py::array::forcecast>;
using Scores  = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Weights = py::array_t<float, py::array::c_style | py::array::forcecast>;

size_t largest(const std::vector<uint32_t> & n_expert) {
    return n_expert.empty() ? 0 : *std::max_element(n_expert.begin(), n_expert.end());
}

// A native policy by itself: for tests against its twin, and for replays in Python.
class NativeEviction {
  public:
    NativeEviction(const std::string & name, const std::map<std::string, double> & parameters,
                   std::vector<uint32_t> n_expert, double lo_cost)
        : n_expert_(std::move(n_expert)), policy_(make_eviction_policy({name, parameters}, {n_expert_, lo_cost})) {}

    void on_route(uint16_t layer_idx, const Ids & expert_idxs, const std::optional<Codes> & codes) {
        if (expert_idxs.ndim() != 2 || layer_idx >= n_expert_.size() ||
            (codes && codes->size() != expert_idxs.size())) {
            throw std::invalid_argument("expert_idxs must be [n_tokens, n_used] of a layer that exists, codes alike");
        }
        if (std::any_of(expert_idxs.data(), expert_idxs.data() + expert_idxs.size(),
                        [&](int32_t id) { return id < 0 || static_cast<uint32_t>(id) >= n_expert_[layer_idx]; })) {
            throw std::invalid_argument("an expert is outside the layer");
        }
        std::vector<Choice> choices;
        for (py::ssize_t i = 0; codes && i < codes->size(); ++i) {
            choices.push_back(static_cast<Choice>(codes->data()[i]));
        }
        policy_->on_route({layer_idx, static_cast<uint32_t>(expert_idxs.shape(1)),
                           static_cast<uint32_t>(expert_idxs.shape(0)), expert_idxs.data(),
                           codes ? choices.data() : nullptr});
    }
    void on_predict(uint16_t source_layer_idx, uint16_t layer_idx, const Ids & expert_idxs, const Weights & weights) {
        if (layer_idx >= n_expert_.size() || expert_idxs.size() != weights.size()) {
            throw std::invalid_argument("expert_idxs and weights must be [n] of a layer that exists");
        }
        std::vector<ExpectedUse> uses;
        for (py::ssize_t i = 0; i < expert_idxs.size(); ++i) {
            const int32_t id = expert_idxs.data()[i];
            if (id < 0 || static_cast<uint32_t>(id) >= n_expert_[layer_idx]) {
                throw std::invalid_argument("an expert is outside the layer");
            }
            uses.push_back({layer_idx, static_cast<uint16_t>(id), weights.data()[i]});
        }
        policy_->on_predict(source_layer_idx, uses.data(), static_cast<uint32_t>(uses.size()));
    }
    void on_next_token(uint16_t layer_idx, const Weights & chances) {
        if (layer_idx >= n_expert_.size() || chances.size() != static_cast<py::ssize_t>(n_expert_[layer_idx])) {
            throw std::invalid_argument("chances must be [n_expert] of a layer that exists");
        }
        policy_->on_next_token(layer_idx, chances.data(), n_expert_[layer_idx]);
    }
    void reset() { policy_->reset(); }

    Scores scores() const {
        const size_t n_layers = n_expert_.size(), n_max = largest(n_expert_);
        Scores       out({static_cast<size_t>(n_precisions), n_layers, n_max});
        double *     data = out.mutable_data();
        std::fill(data, data + out.size(), 0.0);
        for (int p = 0; p < n_precisions; ++p) {
            for (size_t layer = 0; layer < n_layers; ++layer) {
                for (size_t e = 0; e < n_expert_[layer]; ++e) {
                    data[(static_cast<size_t>(p) * n_layers + layer) * n_max + e] = policy_->score(
                        {static_cast<uint16_t>(layer), static_cast<uint16_t>(e), static_cast<Precision>(p)});
                }
            }
        }
        return out;
    }

  private:
    std::vector<uint32_t>           n_expert_;
    std::unique_ptr<EvictionPolicy> policy_;
};

// A policy written in Python, asked once a layer.
class PythonEviction final : public ScoreSource {
  public:
    explicit PythonEviction(py::object policy) : policy_(std::move(policy)) {}
    ~PythonEviction() override {
        py::gil_scoped_acquire gil;
        policy_ = py::object();
    }

    ScoreTable begin(const EvictionModel & model) override {
        n_layers_ = model.n_expert.size();
        n_expert_ = largest(model.n_expert);
        return ask([&] {
            policy_.attr("start")(model.n_expert, model.lo_cost);
            listens_               = py::hasattr(policy_, "on_predict");
            listens_to_next_token_ = py::hasattr(policy_, "on_next_token");
        });
    }
    ScoreTable on_route(const Routing & routing) override {
        return ask([&] {
            const std::vector<size_t> shape{routing.n_tokens, routing.n_used};
            Ids                       ids(shape, routing.expert_idxs);
            Codes                     codes(shape);
            for (size_t i = 0; i < shape[0] * shape[1]; ++i) {
                codes.mutable_data()[i] =
                    static_cast<int8_t>(routing.choices == nullptr ? Choice::hi : routing.choices[i]);
            }
            policy_.attr("on_route")(routing.layer_idx, ids, codes);
        });
    }
    ScoreTable reset() override {
        return ask([&] { policy_.attr("reset")(); });
    }
    std::optional<ScoreTable> on_next_token(uint16_t layer_idx, const std::vector<float> & chances) override {
        if (!listens_to_next_token_) {
            return std::nullopt;
        }
        return ask([&] {
            policy_.attr("on_next_token")(layer_idx, Weights(static_cast<py::ssize_t>(chances.size()), chances.data()));
        });
    }
    std::optional<ScoreTable> on_predict(uint16_t source_layer_idx, const std::vector<ExpectedUse> & uses) override {
        if (uses.empty() || !listens_) {
            return std::nullopt;
        }
        return ask([&] {
            for (size_t first = 0, end = 0; first < uses.size(); first = end) {
                const uint16_t layer_idx = uses[first].layer_idx;
                while (end < uses.size() && uses[end].layer_idx == layer_idx) {
                    ++end;
                }
                Ids     ids(static_cast<py::ssize_t>(end - first));
                Weights probabilities(static_cast<py::ssize_t>(end - first));
                for (size_t i = first; i < end; ++i) {
                    ids.mutable_data()[i - first]           = uses[i].expert_idx;
                    probabilities.mutable_data()[i - first] = uses[i].probability;
                }
                policy_.attr("on_predict")(source_layer_idx, layer_idx, ids, probabilities);
            }
        });
    }

  private:
    template <class Call> ScoreTable ask(Call call) {
        py::gil_scoped_acquire gil;
        try {
            call();
            const Scores scores = Scores::ensure(policy_.attr("scores")());
            if (!scores) {
                throw py::error_already_set();
            }
            return table_of(scores);
        } catch (const std::exception & error) {
            // A plain error: a Python exception must not outlive the lock on the interpreter.
            throw std::runtime_error(std::string("the eviction policy failed: ") + error.what());
        }
    }
    ScoreTable table_of(const Scores & scores) const {
        const size_t per_copy = n_layers_ * n_expert_;
        const bool   is_both  = scores.ndim() == 3;
        const auto   n_dims   = static_cast<int>(scores.ndim());
        if ((n_dims != 2 && n_dims != 3) || (is_both && scores.shape(0) != n_precisions) ||
            static_cast<size_t>(scores.shape(n_dims - 2)) != n_layers_ ||
            static_cast<size_t>(scores.shape(n_dims - 1)) != n_expert_) {
            throw std::runtime_error("scores() must return [" + std::to_string(n_layers_) + ", " +
                                     std::to_string(n_expert_) + "] numbers, or two of these: for hi and lo copies");
        }
        if (std::any_of(scores.data(), scores.data() + scores.size(), [](double s) { return !(s >= 0.0); })) {
            throw std::runtime_error("scores() returned a number that is not 0 or more");
        }
        ScoreTable table(n_layers_, n_expert_);
        for (int p = 0; p < n_precisions; ++p) {
            std::memcpy(table.of(static_cast<Precision>(p)),
                        scores.data() + (is_both ? static_cast<size_t>(p) * per_copy : 0), per_copy * sizeof(double));
        }
        return table;
    }

    py::object policy_;
    size_t     n_layers_              = 0;
    size_t     n_expert_              = 0;     // of the layer that has most
    bool       listens_               = false; // to on_predict()
    bool       listens_to_next_token_ = false;
};

} // namespace

void bind_policy(py::module_ & m) {
    py::class_<NativeEviction>(m, "EvictionPolicy")
        .def(py::init<const std::string &, const std::map<std::string, double> &, std::vector<uint32_t>, double>(),
             py::arg("name"), py::arg("parameters"), py::arg("n_expert"), py::arg("lo_cost"))
        .def("on_route", &NativeEviction::on_route, py::arg("layer_idx"), py::arg("expert_idxs"), py::arg("codes"))
        .def("on_predict", &NativeEviction::on_predict, py::arg("source_layer_idx"), py::arg("layer_idx"),
             py::arg("expert_idxs"), py::arg("probabilities"))
        .def("on_next_token", &NativeEviction::on_next_token, py::arg("layer_idx"), py::arg("chances"))
        .def("reset", &NativeEviction::reset)
        .def("scores", &NativeEviction::scores, "[2, n_layers, most experts of a layer], hi copies first.");
    py::class_<ScoreSource, std::shared_ptr<ScoreSource>>(m, "ScoreSource");
    m.def(
        "python_eviction",
        [](py::object policy) {
            return std::shared_ptr<ScoreSource>(std::make_shared<PythonEviction>(std::move(policy)));
        },
        py::arg("policy"));
    m.def("eviction_policy_names", &eviction_policy_names);
}

} // namespace hobbit
