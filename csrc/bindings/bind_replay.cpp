#include "bindings/bindings.h"
#include "engine/replay.h"

#include <cmath>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <stdexcept>

namespace py = pybind11;

namespace hobbit {

namespace {

template <class T> using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Each step's counts, [n_tokens, n_steps] with a step a layer.
struct ReplayCounts {
    Array<int32_t> n_hits, n_misses_hi, n_misses_lo, n_skipped;
    Array<int64_t> miss_bytes, guessed_miss_bytes, guess_bytes, upgrade_bytes;

    explicit ReplayCounts(const std::vector<py::ssize_t> & shape)
        : n_hits(shape), n_misses_hi(shape), n_misses_lo(shape), n_skipped(shape), miss_bytes(shape),
          guessed_miss_bytes(shape), guess_bytes(shape), upgrade_bytes(shape) {}
};

// layers [n_steps]; expert_idxs and weights [n_tokens, n_steps, n_used]; guess_layers [n_steps, n_guesses] with -1 for
// none; guess_idxs and guess_weights [n_tokens, n_steps, n_guesses, n_used]; sequence_starts: ascending token numbers;
// next_chances [n_tokens, n_steps, most experts of a layer] of trained gates, a row of NaN: none; or empty.
ReplayCounts run(Replay & replay, const Array<int32_t> & layers, const Array<int32_t> & expert_idxs,
                 const Array<float> & weights, const Array<int32_t> & guess_layers, const Array<int32_t> & guess_idxs,
                 const Array<float> & guess_weights, const Array<int64_t> & sequence_starts,
                 const Array<float> & next_chances, bool stop_at_gap) {
    if (expert_idxs.ndim() != 3 || weights.size() != expert_idxs.size() || layers.size() != expert_idxs.shape(1) ||
        guess_layers.ndim() != 2 || guess_layers.shape(0) != layers.size() ||
        guess_idxs.size() != expert_idxs.size() * guess_layers.shape(1) || guess_weights.size() != guess_idxs.size()) {
        throw std::invalid_argument("the arrays of a trace have shapes that do not belong together");
    }
    const auto n_chances = next_chances.size() / (expert_idxs.shape(0) * expert_idxs.shape(1));
    if (next_chances.size() > 0 && n_chances < replay.max_expert()) {
        throw std::invalid_argument("next_chances has less than a layer's experts");
    }
    const auto      n_tokens = expert_idxs.shape(0), n_steps = expert_idxs.shape(1), n_used = expert_idxs.shape(2);
    const auto      n_guesses = guess_layers.shape(1);
    ReplayCounts    counts({n_tokens, n_steps});
    const int64_t * starts     = sequence_starts.data();
    const int64_t * starts_end = starts + sequence_starts.size();
    const struct {
        const int32_t *layers, *ids, *guess_layers, *guess_ids;
        const float *  weights, *guess_weights, *chances;
    } in{layers.data(),  expert_idxs.data(),   guess_layers.data(), guess_idxs.data(),
         weights.data(), guess_weights.data(), next_chances.data()};
    struct {
        int32_t *hits, *misses_hi, *misses_lo, *skipped;
        int64_t *miss, *guessed, *guess, *upgrade;
    } out{counts.n_hits.mutable_data(),      counts.n_misses_hi.mutable_data(),
          counts.n_misses_lo.mutable_data(), counts.n_skipped.mutable_data(),
          counts.miss_bytes.mutable_data(),  counts.guessed_miss_bytes.mutable_data(),
          counts.guess_bytes.mutable_data(), counts.upgrade_bytes.mutable_data()};

    py::gil_scoped_release   no_gil;
    std::vector<ReplayGuess> guesses;
    for (py::ssize_t token = 0; token < n_tokens; ++token) {
        if (starts != starts_end && *starts == token) {
            replay.reset_sequence();
            ++starts;
        }
        for (py::ssize_t step = 0; step < n_steps; ++step) {
            const py::ssize_t row = token * n_steps + step;
            guesses.clear();
            for (py::ssize_t i = 0; i < n_guesses; ++i) {
                const int32_t layer_idx = in.guess_layers[step * n_guesses + i];
                if (layer_idx >= 0) {
                    guesses.push_back({static_cast<uint16_t>(layer_idx), in.guess_ids + (row * n_guesses + i) * n_used,
                                       in.guess_weights + (row * n_guesses + i) * n_used});
                }
            }
            const float *    chances = n_chances > 0 ? in.chances + row * n_chances : nullptr;
            const bool       is_told = chances != nullptr && !std::isnan(chances[0]);
            const ReplayStep counted =
                replay.step(static_cast<uint16_t>(in.layers[step]), in.ids + row * n_used, in.weights + row * n_used,
                            is_told ? chances : nullptr, guesses, stop_at_gap);
            out.hits[row]      = static_cast<int32_t>(counted.n_hits);
            out.misses_hi[row] = static_cast<int32_t>(counted.n_misses[0]);
            out.misses_lo[row] = static_cast<int32_t>(counted.n_misses[1]);
            out.skipped[row]   = static_cast<int32_t>(counted.n_skipped);
            out.miss[row]      = static_cast<int64_t>(counted.miss_bytes);
            out.guessed[row]   = static_cast<int64_t>(counted.guessed_miss_bytes);
            out.guess[row]     = static_cast<int64_t>(counted.guess_bytes);
            out.upgrade[row]   = static_cast<int64_t>(counted.upgrade_bytes);
        }
    }
    return counts;
}

std::unique_ptr<Replay> make_replay(const std::vector<uint32_t> & n_expert, uint32_t n_used, uint32_t alignment,
                                    const std::vector<std::vector<uint64_t>> & hi_part_bytes,
                                    const std::vector<std::vector<uint64_t>> & lo_part_bytes,
                                    const LoaderOptions & options, std::shared_ptr<PrecisionPolicy> policy) {
    ReplayModel model;
    model.n_used        = n_used;
    model.alignment     = alignment;
    model.n_expert      = n_expert;
    model.part_bytes[0] = hi_part_bytes;
    model.part_bytes[1] = lo_part_bytes;
    return std::make_unique<Replay>(model, options, std::move(policy));
}

} // namespace

void bind_replay(py::module_ & m) {
    py::class_<ReplayCounts>(m, "ReplayCounts")
        .def_readonly("n_hits", &ReplayCounts::n_hits)
        .def_readonly("n_misses_hi", &ReplayCounts::n_misses_hi)
        .def_readonly("n_misses_lo", &ReplayCounts::n_misses_lo)
        .def_readonly("n_skipped", &ReplayCounts::n_skipped)
        .def_readonly("miss_bytes", &ReplayCounts::miss_bytes)
        .def_readonly("guessed_miss_bytes", &ReplayCounts::guessed_miss_bytes)
        .def_readonly("guess_bytes", &ReplayCounts::guess_bytes)
        .def_readonly("upgrade_bytes", &ReplayCounts::upgrade_bytes);
    py::class_<Replay>(m, "Replay")
        .def(py::init(&make_replay), py::arg("n_expert"), py::arg("n_used"), py::arg("alignment"),
             py::arg("hi_part_bytes"), py::arg("lo_part_bytes"), py::arg("options"), py::arg("policy"),
             py::call_guard<py::gil_scoped_release>())
        .def("run", &run, py::arg("layers"), py::arg("expert_idxs"), py::arg("weights"), py::arg("guess_layers"),
             py::arg("guess_idxs"), py::arg("guess_weights"), py::arg("sequence_starts"), py::arg("next_chances"),
             py::arg("stop_at_gap"))
        .def(
            "class_slots",
            [](const Replay & r) {
                std::vector<uint32_t> n_slots;
                for (size_t i = 0; i < r.layouts().classes.size(); ++i) {
                    n_slots.push_back(r.loader().n_slots(static_cast<int32_t>(i)));
                }
                return n_slots;
            },
            "[n_classes]: slots of each size class.")
        .def(
            "layer_classes",
            [](const Replay & r, Precision precision) {
                std::vector<int32_t> classes;
                for (const CopyLayout & layout : r.layouts().layouts[static_cast<int>(precision)]) {
                    classes.push_back(layout.n_expert > 0 ? static_cast<int32_t>(layout.class_idx) : -1);
                }
                return classes;
            },
            py::arg("precision"), "[n_layers]: the size class of each layer's copies, -1 for none.")
        .def("n_evictions", [](const Replay & r) { return r.loader().stats().n_evictions; })
        .def(
            "residency",
            [](const Replay & r, uint16_t layer_idx, Precision precision) {
                return r.loader().residency(layer_idx, precision);
            },
            py::arg("layer_idx"), py::arg("precision"))
        .def("check_invariants", [](const Replay & r) { r.loader().check_invariants(); });
}

} // namespace hobbit
