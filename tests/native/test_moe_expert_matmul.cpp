// The products that are made of a layer's node for some of its rows.
#include "moe/expert_matmul.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <doctest/doctest.h>

#include <array>
#include <vector>

using namespace hobbit;

namespace {

constexpr int64_t n_in = 64, n_out = 32;

// Stands for memory that ggml would want aligned.
alignas(64) std::byte anchor[64];

// A device that computes nothing and writes down the shapes of products: rows of a token's input, tokens, ids of a
// token.
struct Recorder {
    std::vector<std::array<int64_t, 3>> products;
    ggml_backend                        backend{};

    Recorder() {
        backend.device              = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        backend.context             = this;
        backend.iface.graph_compute = [](ggml_backend_t self, ggml_cgraph * graph) {
            for (int i = 0; i < graph->n_nodes; i++) {
                const ggml_tensor * node = graph->nodes[i];
                if (node->op == GGML_OP_MUL_MAT_ID) {
                    static_cast<Recorder *>(self->context)
                        ->products.push_back({node->src[1]->ne[1], node->src[1]->ne[2], node->src[2]->ne[0]});
                }
            }
            return GGML_STATUS_SUCCESS;
        };
    }
};

// Slots of one class.
class Slots final : public ExpertWeights {
  public:
    Slots() {
        CopySpec spec;
        spec.n_expert = n_experts;
        spec.n_used   = 8;
        spec.parts    = {{0, n_in * n_out * sizeof(float), n_in * n_out * sizeof(float)}};
        layouts_      = make_device_layouts({spec}, 64);
        data_.resize(layouts_.classes[0].slot_bytes * n_experts);
        buffer_.reset(ggml_backend_cpu_buffer_from_ptr(anchor, sizeof(anchor)));
    }

    ExpertKey           key(uint32_t) const override { return {}; }
    SlotRef             slot(uint32_t) const override { return {}; }
    WeightArea          part(uint32_t, uint32_t) const override { return {}; }
    const CopyLayouts & layouts() const override { return layouts_; }
    uint32_t            n_slots(int32_t) const override { return n_experts; }
    WeightArea          slots(int32_t) const override { return {buffer_.get(), const_cast<std::byte *>(data_.data())}; }

  private:
    static constexpr uint32_t n_experts = 8;

    CopyLayouts            layouts_;
    std::vector<std::byte> data_;
    GgmlBufferPtr          buffer_;
};

// A node of a layer of one matrix, over memory of its own.
struct Node {
    ModelExperts       model;
    std::vector<float> memory;
    GgmlBufferPtr      buffer;
    ggml_tensor        input{}, output{}, ids{};
    LayerView          view;

    Node(int64_t n_used, int64_t n_tokens) : memory(static_cast<size_t>((n_in + n_out) * n_used * n_tokens) + 64) {
        buffer.reset(ggml_backend_cpu_buffer_from_ptr(anchor, sizeof(anchor)));
        const auto rows = [&](int64_t n, float * data) {
            ggml_tensor t = flat_tensor(GGML_TYPE_F32, static_cast<size_t>(n), buffer.get(), data);
            t.ne[1]       = n_used;
            t.ne[2]       = n_tokens;
            t.nb[2]       = t.nb[1] * static_cast<size_t>(n_used);
            t.nb[3]       = t.nb[2] * static_cast<size_t>(n_tokens);
            return t;
        };
        input         = rows(n_in, memory.data());
        output        = rows(n_out, memory.data() + n_in * n_used * n_tokens);
        output.op     = GGML_OP_MUL_MAT_ID;
        output.src[1] = &input;
        ids.ne[0]     = n_used;
        ids.ne[1]     = n_tokens;
        view.model    = &model;
        view.ids      = &ids;
        view.nodes    = {{0, 0, &output}};
        LayerShapes shapes;
        shapes.parts[static_cast<int>(Precision::hi)] = {{MatrixKind::down, GGML_TYPE_F32, n_in, n_out}};
        model.layers                                  = {shapes};
    }
};

} // namespace

TEST_CASE("some rows of one token are one token's product: a GPU rounds those of several in another way") {
    Recorder     device;
    InnerGraph   graph(&device.backend);
    ExpertMatmul matmul(&device.backend);
    Slots        slots;
    Node         node(8, 1);
    const auto   add = [&](const std::vector<uint32_t> & rows, const std::vector<int32_t> & slot_idxs,
                           uint32_t n_padded) {
        REQUIRE(
            matmul.add_slot_rows(graph, node.view.nodes[0], node.view, slots, Precision::hi, rows, slot_idxs, n_padded)
                .ok());
        REQUIRE(graph.compute().ok());
        return device.products.back();
    };
    CHECK(add({1, 4, 6}, {3, 0, 7}, 0) == std::array<int64_t, 3>{3, 1, 3});
    CHECK(add({1, 2, 3}, {3, 0, 7}, 0) == std::array<int64_t, 3>{3, 1, 3}); // where they are, not gathered
    CHECK(add({5}, {3}, 0) == std::array<int64_t, 3>{1, 1, 1});
    CHECK(add({1, 4}, {3, 0}, 8) == std::array<int64_t, 3>{8, 1, 8});
}

TEST_CASE("few rows of several tokens are a token each") {
    Recorder     device;
    InnerGraph   graph(&device.backend);
    ExpertMatmul matmul(&device.backend);
    Slots        slots;
    Node         node(8, 2);
    REQUIRE(matmul.add_slot_rows(graph, node.view.nodes[0], node.view, slots, Precision::hi, {1, 9, 12}, {3, 3, 5}, 0)
                .ok());
    REQUIRE(graph.compute().ok());
    CHECK(device.products.back() == std::array<int64_t, 3>{1, 3, 1});
}
