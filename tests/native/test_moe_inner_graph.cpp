#include "moe/inner_graph.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

using namespace hobbit;

namespace {

// A device that computes nothing and writes down with which node each run began, and how many nodes it had.
struct Recorder {
    std::vector<std::pair<const ggml_tensor *, int>> runs;
    ggml_backend                                     backend{};

    Recorder() {
        backend.device              = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        backend.context             = this;
        backend.iface.graph_compute = [](ggml_backend_t self, ggml_cgraph * graph) {
            static_cast<Recorder *>(self->context)->runs.emplace_back(graph->nodes[0], graph->n_nodes);
            return GGML_STATUS_SUCCESS;
        };
    }
};

} // namespace

TEST_CASE("runs of a layer that are alike begin with the same node, others with another one") {
    Recorder                   device;
    InnerGraph                 graph(&device.backend);
    ggml_tensor                node{};
    const std::vector<int32_t> ids(8, 1);
    const auto                 run = [&](int32_t layer_idx, int n_nodes, bool has_ids) {
        graph.set_recurring(layer_idx);
        for (int i = 0; i < n_nodes; i++) {
            graph.add(&node);
        }
        if (has_ids) {
            REQUIRE(graph.ids(ids, 8, 1) != nullptr);
        }
        REQUIRE(graph.compute().ok());
        return device.runs.back().first;
    };
    const ggml_tensor * first = run(0, 2, false);
    CHECK(first != &node);
    CHECK(device.runs.back().second == 3);
    CHECK(first->op == GGML_OP_NONE);
    CHECK(run(0, 2, false) == first);
    CHECK(run(0, 3, false) != first);
    CHECK(run(0, 2, true) != first);
    CHECK(run(1, 2, false) != first);
    CHECK(run(0, 2, false) == first);
    CHECK(run(-1, 2, false) == &node);
    CHECK(device.runs.back().second == 2);
}

TEST_CASE("runs that do not come again begin with one node, whatever they are") {
    Recorder    device;
    InnerGraph  graph(&device.backend);
    ggml_tensor nodes[2] = {};
    graph.set_recurring(0);
    graph.add(&nodes[0]);
    REQUIRE(graph.compute().ok());
    graph.set_one_time();
    graph.add(&nodes[0]);
    REQUIRE(graph.compute().ok());
    graph.add(&nodes[1]);
    graph.add(&nodes[0]);
    REQUIRE(graph.compute().ok());
    REQUIRE(device.runs.size() == 3);
    CHECK(device.runs[1].first->op == GGML_OP_NONE);
    CHECK(device.runs[1].first != device.runs[0].first);
    CHECK(device.runs[1].second == 2);
    CHECK(device.runs[2] == std::make_pair(device.runs[1].first, 3));
}

TEST_CASE("a run behind another one begins with a node of its own, since its indices lie elsewhere") {
    Recorder    device;
    InnerGraph  graph(&device.backend);
    ggml_tensor node{};
    graph.set_recurring(0);
    for (int token = 0; token < 2; token++) {
        graph.add(&node);
        REQUIRE(graph.ids({1, 2}, 2, 1) != nullptr);
        REQUIRE(graph.submit().ok());
        graph.add(&node);
        REQUIRE(graph.ids({3, 4}, 2, 1) != nullptr);
        REQUIRE(graph.compute().ok());
    }
    REQUIRE(device.runs.size() == 4);
    CHECK(device.runs[0].first != device.runs[1].first);
    CHECK(device.runs[2] == device.runs[0]);
    CHECK(device.runs[3] == device.runs[1]);
}

TEST_CASE("what can wait is done once the device has its work, and before it is waited for") {
    Recorder    device;
    InnerGraph  graph(&device.backend);
    ggml_tensor node{};
    bool        has_work             = false;
    device.backend.iface.synchronize = [](ggml_backend_t) {};
    graph.add(&node);
    REQUIRE(graph.compute(nullptr, [&] { has_work = device.runs.size() == 1; }).ok());
    CHECK(has_work);
}
