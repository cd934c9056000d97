#include "bindings/bindings.h"
#include "engine/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace hobbit {

namespace {

Loader & loader_of(Engine & engine) {
    if (engine.loader() == nullptr) {
        throw std::logic_error("set_expert_memory() was not called");
    }
    return *engine.loader();
}

DeviceTier & tier_of(Engine & engine) {
    if (engine.tier() == nullptr) {
        throw std::logic_error("set_device_memory() was not called");
    }
    return *engine.tier();
}

// A copy, since numpy's array outlives what was recorded.
py::tuple importance_of(const ExpertMatrix & matrix, uint32_t n_expert, const ImportanceRecorder::Sums & sums) {
    const std::vector<py::ssize_t> shape = {static_cast<py::ssize_t>(n_expert), static_cast<py::ssize_t>(matrix.n_in)};
    return py::make_tuple(matrix.tensor_name, py::array_t<float>(shape, sums.squares.data()),
                          py::array_t<double>(static_cast<py::ssize_t>(n_expert), sums.n_rows.data()));
}

// As importance_of: what is recorded of all the model's matrices at once may take a gigabyte.
py::object moments_of(const Engine & engine, const std::string & tensor_name) {
    for (const ExpertLayer & layer : engine.store().layers()) {
        for (uint32_t i = 0; engine.importance() != nullptr && i < layer.matrices.size(); ++i) {
            const InputMoments::Sums & sums = engine.importance()->moments().of(layer.layer_idx, i);
            if (layer.matrices[i].tensor_name != tensor_name || sums.sums.empty()) {
                continue;
            }
            const auto n_groups = static_cast<py::ssize_t>(sums.n_groups);
            const auto n        = static_cast<py::ssize_t>(sums.sums.size()) / n_groups;
            return py::make_tuple(py::array_t<float>({n_groups, n}, sums.sums.data()),
                                  py::array_t<double>(n_groups, sums.n_rows.data()));
        }
    }
    return py::none();
}

py::list importance(const Engine & engine) {
    if (engine.importance() == nullptr) {
        throw std::logic_error("record_importance() was not called");
    }
    py::list all;
    for (const ExpertLayer & layer : engine.store().layers()) {
        for (uint32_t i = 0; i < layer.matrices.size(); ++i) {
            all.append(importance_of(layer.matrices[i], layer.n_expert, engine.importance()->of(layer.layer_idx, i)));
        }
    }
    return all;
}

py::array_t<uint64_t> take_timeline(Engine & engine) {
    const std::vector<Timeline::Span> spans = engine.timeline().take();
    py::array_t<uint64_t>             rows({static_cast<py::ssize_t>(spans.size()), py::ssize_t{6}});
    auto                              out = rows.mutable_unchecked<2>();
    for (size_t i = 0; i < spans.size(); ++i) {
        const Timeline::Span & s         = spans[i];
        const uint64_t         columns[] = {
            static_cast<uint64_t>(s.kind), s.lane, s.start_us, s.end_us, s.layer_idx, s.n_bytes,
        };
        for (size_t j = 0; j < 6; ++j) {
            out(static_cast<py::ssize_t>(i), static_cast<py::ssize_t>(j)) = columns[j];
        }
    }
    return rows;
}

struct StepCounts {
    uint64_t n_layer_steps, n_unified_steps, n_tokens, n_pairs_hi, n_pairs_lo, n_pairs_skipped, n_pairs_rerouted,
        n_scored_rows, dropped_mass_ppm;
};

StepCounts snapshot(const StepCounters & c) {
    return {c.n_layer_steps,   c.n_unified_steps,  c.n_tokens,      c.n_pairs_hi,      c.n_pairs_lo,
            c.n_pairs_skipped, c.n_pairs_rerouted, c.n_scored_rows, c.dropped_mass_ppm};
}

} // namespace

void bind_engine(py::module_ & m) {
    py::class_<StepCounts>(m, "StepCounts")
        .def_readonly("n_layer_steps", &StepCounts::n_layer_steps)
        .def_readonly("n_unified_steps", &StepCounts::n_unified_steps)
        .def_readonly("n_tokens", &StepCounts::n_tokens)
        .def_readonly("n_pairs_hi", &StepCounts::n_pairs_hi)
        .def_readonly("n_pairs_lo", &StepCounts::n_pairs_lo)
        .def_readonly("n_pairs_skipped", &StepCounts::n_pairs_skipped)
        .def_readonly("n_pairs_rerouted", &StepCounts::n_pairs_rerouted)
        .def_readonly("n_scored_rows", &StepCounts::n_scored_rows)
        .def_readonly("dropped_mass_ppm", &StepCounts::dropped_mass_ppm);

    py::class_<EngineOptions>(m, "EngineOptions")
        .def(py::init<>())
        .def_readwrite("lo_path", &EngineOptions::lo_path)
        .def_readwrite("hi_path", &EngineOptions::hi_path)
        .def_readwrite("inner_device", &EngineOptions::inner_device)
        .def_readwrite("n_io_threads", &EngineOptions::n_io_threads)
        .def_readwrite("direct_io", &EngineOptions::direct_io)
        .def_readwrite("is_unified", &EngineOptions::is_unified);

    py::class_<Engine>(m, "Engine")
        .def(py::init<const std::string &, const EngineOptions &>(), py::arg("path"), py::arg("options"),
             py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("is_moe", [](const Engine & e) { return e.store().is_moe(); })
        .def_property_readonly("has_lo", &Engine::has_lo)
        .def_property_readonly("n_expert_used", &Engine::n_expert_used)
        .def_property_readonly("dense_bytes", [](const Engine & e) { return e.store().dense_bytes(); })
        .def_property_readonly("expert_bytes", [](const Engine & e) { return e.store().expert_bytes(); })
        .def_property_readonly("lo_expert_bytes", &Engine::lo_expert_bytes)
        .def_property_readonly("hi_expert_bytes", &Engine::hi_expert_bytes)
        .def_property_readonly("min_lo_bits", &Engine::min_lo_bits,
                               "Bits a weight of the lo copies' coarsest matrix; 0: there are none.")
        .def_property_readonly("token_slot_bytes", &Engine::token_slot_bytes,
                               "Slots for one token's experts of one layer, every size class counted.")
        .def_property_readonly(
            "all_slots_bytes", [](const Engine & e) { return e.all_slots_bytes(Precision::hi); },
            "Slots for every expert in hi.")
        .def_property_readonly(
            "all_lo_slots_bytes", [](const Engine & e) { return e.all_slots_bytes(Precision::lo); },
            "Slots for every expert in lo.")
        .def_property_readonly("layer_area_bytes", &Engine::layer_area_bytes,
                               "The most that a device with the host's memory takes besides, where not every expert "
                               "has a slot.")
        .def_property_readonly("paths", [](const Engine & e) { return e.model().paths(); })
        .def_property_readonly("architecture",
                               [](const Engine & e) { return e.model().get_string("general.architecture"); })
        .def(
            "get_int",
            [](const Engine & e, const std::string & key, int64_t fallback) {
                return e.model().get_int(key, fallback);
            },
            py::arg("key"), py::arg("fallback"), "Integer metadata of the model; for arrays their largest element.")
        // Addresses for llama.cpp's C structures.
        .def_property_readonly("device_address",
                               [](const Engine & e) { return reinterpret_cast<uintptr_t>(e.device()); })
        .def_property_readonly("buffer_type_address",
                               [](Engine & e) { return reinterpret_cast<uintptr_t>(e.buffer_type()); })
        .def(
            "open_stream", [](Engine & e) { return reinterpret_cast<uintptr_t>(e.open_stream().file()); },
            "Address of a FILE* that llama.cpp can load the model from; valid until close_stream().")
        .def("stream_error", &Engine::stream_error)
        .def("close_stream", &Engine::close_stream)
        .def("io_bytes", &Engine::io_bytes, py::arg("options"))
        .def("set_expert_memory", &Engine::set_expert_memory, py::arg("options"),
             py::call_guard<py::gil_scoped_release>())
        .def(
            "take_error",
            [](Engine & e) -> py::object {
                const Status error = e.take_error();
                if (error.ok()) {
                    return py::none();
                }
                return py::make_tuple(error.message(), error.os_errno(), error.path());
            },
            "(message, errno, path) of what made llama_decode fail, or None. Taken once. errno 0 with a path: the file "
            "ended; no path: not a read.")
        .def("set_device_memory", &Engine::set_device_memory, py::arg("options"),
             py::call_guard<py::gil_scoped_release>())
        .def("fill_device_memory", &Engine::fill_device_memory, py::arg("precision"),
             py::call_guard<py::gil_scoped_release>())
        .def("set_spare_threads", &Engine::set_spare_threads, py::arg("n_threads"))
        .def("set_host_compute", &Engine::set_host_compute, py::arg("host_compute"))
        .def_property_readonly("is_host_held_back", &Engine::is_host_held_back,
                               "Whether experts are copied that the host might sooner multiply by with other bits.")
        .def_property_readonly("has_device_rounding", &Engine::has_device_rounding,
                               "Whether what the host multiplies for single tokens has the device's bits.")
        .def("assume_device_rounding", &Engine::assume_device_rounding,
             "For tests: as if the device were a GPU, and it had.")
        .def_property_readonly(
            "all_device_bytes", [](const Engine & e) { return e.all_device_bytes(Precision::hi); },
            "Slots on the device for every expert in hi.")
        .def_property_readonly(
            "all_lo_device_bytes", [](const Engine & e) { return e.all_device_bytes(Precision::lo); },
            "Slots on the device for every expert in lo.")
        .def("device_bytes", &Engine::device_bytes, py::arg("options"))
        .def_property_readonly("least_device_bytes", &Engine::least_device_bytes,
                               "The least expert_bytes with which batches are llama.cpp's products; 0 with lo copies.")
        .def_property_readonly("has_tier", [](Engine & e) { return e.tier() != nullptr; })
        .def_property_readonly("device_expert_bytes", &Engine::device_expert_bytes, "Slots on the device.")
        .def("tier_stats", [](Engine & e) { return tier_of(e).stats(); })
        .def("check_tier_invariants", [](Engine & e) { tier_of(e).check_invariants(); })
        .def("set_precision_policy", &Engine::set_precision_policy, py::arg("policy").none(false),
             py::arg("skip_renorm"))
        .def("record_importance", &Engine::record_importance, py::arg("max_moments_bytes"))
        .def("importance", &importance,
             "Since record_importance(), of every expert tensor: its name, sums of the squared inputs [n_expert, n_in] "
             "and numbers of rows [n_expert].")
        .def("moments", &moments_of, py::arg("tensor_name"),
             "Since record_importance(), of the inputs of an expert tensor: sums of their products, lower triangles of "
             "blocks of 256 columns [n_expert or 1, n], and numbers of rows; None where they are those of another "
             "tensor of the layer, or would have taken more than max_moments_bytes.")
        .def(
            "start_timeline", [](Engine & e, size_t max_spans) { e.timeline().start(max_spans); }, py::arg("max_spans"))
        .def(
            "take_timeline", &take_timeline,
            "Ends recording: [n_spans, 6] of kind (0 compute, 1 stall, 2 read, 3 queued), lane, start and end in us of "
            "a steady clock, layer and bytes.")
        .def("set_prefetch", &Engine::set_prefetch, py::arg("options"))
        .def(
            "set_router_filter",
            [](Engine & e, const std::string & name, float strength, uint32_t n_protected, float fall) {
                e.set_router_filter({name, strength, n_protected, fall});
            },
            py::arg("name"), py::arg("strength"), py::arg("n_protected"), py::arg("fall") = 0.0f)
        .def("set_hybrid_weights", &Engine::set_hybrid_weights, py::arg("weights"))
        .def("set_trained_gates", &Engine::set_trained_gates, py::arg("gates").none(true))
        .def("set_prediction_record", &Engine::set_prediction_record, py::arg("record").none(true))
        .def("request_traces", &Engine::request_traces, py::return_value_policy::reference_internal)
        .def(
            "prediction_counts",
            [](const Engine & e) {
                std::vector<std::pair<uint64_t, uint64_t>> counts;
                for (uint32_t d = 0; d < PredictionCounts::max_distance; ++d) {
                    counts.emplace_back(e.prediction_counts().n_guessed[d], e.prediction_counts().n_selected[d]);
                }
                return counts;
            },
            "(guessed, selected) experts, for a look-ahead of one layer, two, ...")
        .def("set_route_log", &Engine::set_route_log, py::arg("log"))
        .def_property_readonly("alignment", &Engine::alignment)
        .def_property_readonly("n_expert",
                               [](const Engine & e) {
                                   std::vector<uint32_t> n_expert;
                                   for (const LayerShapes & layer : e.experts().layers) {
                                       n_expert.push_back(layer.n_expert);
                                   }
                                   return n_expert;
                               })
        .def(
            "part_bytes",
            [](const Engine & e, Precision precision) {
                std::vector<std::vector<uint64_t>> bytes;
                for (const CopyLayout & layout : e.layouts().layouts[static_cast<int>(precision)]) {
                    bytes.emplace_back();
                    for (const PartLayout & part : layout.parts) {
                        bytes.back().push_back(part.n_bytes);
                    }
                }
                return bytes;
            },
            py::arg("precision"), "Bytes of one expert's matrices, [n_layers][n_matrices].")
        .def("step_counters", [](const Engine & e) { return snapshot(e.counters()); })
        .def("loader_stats", [](Engine & e) { return loader_of(e).stats(); })
        .def("arena_bytes", [](Engine & e) { return loader_of(e).arena_bytes(); })
        .def("unfilled_bytes", [](Engine & e) { return loader_of(e).unfilled_bytes(); })
        .def("drive_bytes_s", [](Engine & e) { return loader_of(e).prefetch_state().read_bytes_s; })
        .def("stream_bytes", [](Engine & e) { return loader_of(e).stream_bytes(); })
        .def("reset_sequence",
             [](Engine & e) {
                 e.begin_sequence();
                 loader_of(e).reset_sequence();
             })
        .def("clear_cache", [](Engine & e) { loader_of(e).clear(); })
        .def(
            "warm",
            [](Engine & e, const std::vector<std::tuple<uint16_t, uint16_t, Precision>> & copies) {
                std::vector<ExpertKey> keys;
                for (const auto & [layer_idx, expert_idx, precision] : copies) {
                    keys.push_back({layer_idx, expert_idx, precision});
                }
                loader_of(e).warm(keys);
            },
            py::arg("copies"), "Reads (layer, expert, precision) in the background, into free slots; unknown ones not.")
        .def(
            "hot_set",
            [](Engine & e) {
                std::vector<std::tuple<uint16_t, uint16_t, Precision>> copies;
                for (const ExpertKey key : loader_of(e).hot_set()) {
                    copies.emplace_back(key.layer_idx, key.expert_idx, key.precision);
                }
                return copies;
            },
            "(layer, expert, precision) of what is resident, the most valued first.")
        .def("check_invariants", [](Engine & e) { loader_of(e).check_invariants(); })
        .def(
            "residency",
            [](Engine & e, uint16_t layer_idx, Precision precision) {
                return loader_of(e).residency(layer_idx, precision);
            },
            py::arg("layer_idx"), py::arg("precision"), "[n_expert] of 0 absent, 1 loading, 2 ready.");
}

} // namespace hobbit
