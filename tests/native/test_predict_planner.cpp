#include "loader_fixture.h"
#include "predict/prefetch_planner.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <stdexcept>

using namespace hobbit;
using namespace hobbit::testing;

namespace {

constexpr uint32_t n_expert = 8;

TinyModel four_layers(bool has_lo = false) {
    const TinyModel::Layer layer(n_expert, {1024, 1024, 2048});
    return TinyModel({layer, layer, layer, layer}, has_lo);
}

LoaderOptions everything_fits() {
    LoaderOptions options;
    options.expert_memory_bytes = 1 << 20;
    return options;
}

struct Plan {
    const TinyModel  tiny;
    Bench            bench;
    PredictorModel   model;
    PredictionCounts counts;
    PrefetchPlanner  planner;
    GateLogits       gates;

    explicit Plan(const PrefetchOptions & options, bool has_lo = false, const RouterFilterOptions & filter = {})
        : tiny(four_layers(has_lo)), bench(tiny, everything_fits()), model{tiny.n_expert(), 2},
          planner(options, model, {}, tiny.layouts, counts, make_router_filter(filter)) {
        gates.n_tokens = 1;
        gates.of_layer.resize(4, nullptr);
    }

    void make_resident(uint16_t layer_idx, const std::vector<uint16_t> & experts, Precision precision = Precision::hi) {
        const auto step = bench.loader.begin(tiny.keys(layer_idx, experts, precision), {0, 1, 2}, Admission::always);
        bool       all_right = true;
        CHECK(bench.run(*step, {0, 1, 2}, all_right).ok());
    }

    std::vector<ExpertKey> at(uint16_t layer_idx, const PrecisionPolicy & precision = *make_always_high()) {
        const int32_t selected[] = {0, 1};
        planner.begin_pass(nullptr, 1);
        planner.observe(layer_idx, selected, 2, 1);
        return planner.plan(bench.loader, precision, gates);
    }
};

ExpertKey hi(uint16_t layer_idx, uint16_t expert_idx) { return {layer_idx, expert_idx, Precision::hi}; }

// Routers that want experts 2 and 5, 3 and 6, 4 and 7.
const std::vector<float> wants_2_5 = {0, 0, 4, 0, 0, 3, 0, 0};
const std::vector<float> wants_3_6 = {0, 0, 0, 4, 0, 0, 3, 0};
const std::vector<float> wants_4_7 = {0, 0, 0, 0, 4, 0, 0, 3};

void give_gates(Plan & plan) { plan.gates.of_layer = {nullptr, wants_2_5.data(), wants_3_6.data(), wants_4_7.data()}; }

} // namespace

TEST_CASE("first-gap ends with the nearest layer that lacks something") {
    Plan plan({"stacked-gates", "first-gap", 3});
    give_gates(plan);
    CHECK(plan.planner.n_gate_layers(Gates::routers) == 3);
    CHECK(plan.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5)});
    plan.make_resident(1, {2, 5});
    CHECK(plan.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5), hi(2, 3), hi(2, 6)}); // the resident ones are kept
}

TEST_CASE("fixed looks at every layer, the nearest first, and not beyond the last") {
    Plan plan({"stacked-gates", "fixed", 2});
    give_gates(plan);
    CHECK(plan.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5), hi(2, 3), hi(2, 6)});
    CHECK(plan.at(3).empty()); // another token follows, whose router inputs are not known
}

TEST_CASE("the token before is known beyond the last layer") {
    Plan plan({"previous-token", "fixed", 1});
    CHECK(plan.at(0).empty());
    CHECK(plan.at(3) == std::vector<ExpertKey>{hi(0, 0), hi(0, 1)});
}

TEST_CASE("all-decayed orders by share and nearness over all layers") {
    Plan plan({"stacked-gates", "all-decayed", 0});
    give_gates(plan);
    const auto keys = plan.at(0);
    CHECK(keys.size() == 6);
    CHECK(keys[0] == hi(1, 2));
    CHECK(keys[1] == hi(2, 3)); // before the second best of the nearer layer
    CHECK(keys.back() == hi(3, 7));
}

TEST_CASE("guesses are wanted in the copy that the precision policy would choose") {
    Plan plan({"stacked-gates", "fixed", 1}, true);
    give_gates(plan);
    const auto thresholds = make_thresholds(0.0f, 1.0f, false); // the best in hi, others in lo
    CHECK(plan.at(0, *thresholds) == std::vector<ExpertKey>{hi(1, 2), {1, 5, Precision::lo}});
    plan.make_resident(1, {5});
    CHECK(plan.at(0, *thresholds) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5)}); // what serves is kept
    CHECK(plan.at(0, *make_thresholds(0.0f, 0.0f, false)).size() == 2);
    plan.bench.loader.clear();
    CHECK(plan.at(0, *make_thresholds(0.0f, 0.0f, false)) == std::vector<ExpertKey>{hi(1, 2)}); // the other is skipped
}

TEST_CASE("what a router filter will give up is not guessed") {
    const std::vector<float> near_tie = {0, 0, 4, 0, 2.9f, 3, 0, 0}; // expert 5 before 4
    Plan                     plan({"stacked-gates", "fixed", 1}, false, {"substitute", 0.5f, 1});
    Plan                     unfiltered({"stacked-gates", "fixed", 1});
    for (Plan * p : {&plan, &unfiltered}) {
        p->gates.of_layer[1] = near_tie.data();
        CHECK(p->at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5)}); // none is resident
        p->make_resident(1, {4});
    }
    CHECK(unfiltered.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5)});
    CHECK(plan.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 4)});
    plan.make_resident(1, {5});
    CHECK(plan.at(0) == std::vector<ExpertKey>{hi(1, 2), hi(1, 5)}); // nothing to be gained
}

TEST_CASE("what is resident may be another's to say") {
    Plan plan({"stacked-gates", "fixed", 1}, true);
    give_gates(plan);
    const auto         thresholds = make_thresholds(0.0f, 1.0f, false);
    const FindResident all_hi     = [](uint16_t, const int32_t *, uint32_t n, Resident * resident) {
        std::fill(resident, resident + n, Resident::hi);
    };
    CHECK(plan.at(0, *thresholds) == std::vector<ExpertKey>{hi(1, 2), {1, 5, Precision::lo}});
    CHECK(plan.planner.plan(plan.bench.loader, *thresholds, plan.gates, all_hi) ==
          std::vector<ExpertKey>{hi(1, 2), hi(1, 5)});
}

TEST_CASE("recall counts what was guessed, by distance") {
    Plan plan({"stacked-gates", "fixed", 2});
    give_gates(plan);
    plan.at(0);
    const int32_t selected_1[] = {5, 0}, selected_2[] = {6, 3};
    plan.planner.observe(1, selected_1, 2, 1);
    plan.planner.observe(2, selected_2, 2, 1);
    CHECK(plan.counts.n_selected[0] == 2);
    CHECK(plan.counts.n_guessed[0] == 1);
    CHECK(plan.counts.n_selected[1] == 2);
    CHECK(plan.counts.n_guessed[1] == 2);
    CHECK(plan.counts.n_selected[2] == 0);
}

TEST_CASE("a batch is guessed token by token") {
    Plan               plan({"stacked-gates", "fixed", 1});
    std::vector<float> two_tokens = wants_2_5;
    two_tokens.insert(two_tokens.end(), wants_3_6.begin(), wants_3_6.end());
    plan.gates.n_tokens      = 2;
    plan.gates.of_layer[1]   = two_tokens.data();
    const int32_t selected[] = {0, 1, 2, 3};
    plan.planner.begin_pass(nullptr, 2);
    plan.planner.observe(0, selected, 2, 2);
    CHECK(plan.planner.plan(plan.bench.loader, *make_always_high(), plan.gates) ==
          std::vector<ExpertKey>{hi(1, 2), hi(1, 5), hi(1, 3), hi(1, 6)});
}

TEST_CASE("unknown names are refused") {
    CHECK_THROWS_AS(Plan({"stacked-gates", "endless", 1}), std::invalid_argument);
    CHECK_THROWS_AS(Plan({"oracle", "fixed", 1}), std::invalid_argument);
}

TEST_CASE("the step size grows with the reads to hide, and by what came late or for nothing") {
    StepController steps(6);
    CHECK(steps.n_steps() == 1);
    steps.measure(8, 5e6, 2e9, 0); // nothing measured yet
    CHECK(steps.n_steps() == 1);
    steps.measure(8, 5e6, 2e9, 5000); // 20 ms of reads, 5 ms a layer
    CHECK(steps.n_steps() == 4);
    steps.feedback(2, 0);
    CHECK(steps.n_steps() == 4);
    steps.feedback(1, 0);
    CHECK(steps.n_steps() == 5);
    steps.feedback(0, 3);
    steps.feedback(0, 3);
    CHECK(steps.n_steps() == 3);
    steps.measure(8, 5e6, 1e8, 5000);
    CHECK(steps.n_steps() == 5);
    for (int i = 0; i < 100; i++) {
        steps.feedback(0, 9);
    }
    CHECK(steps.n_steps() == 1);
}
