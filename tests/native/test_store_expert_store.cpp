#if defined(__GNUC__) && !defined(__clang__)
#    pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // GCC 12 on the insides of std::regex, under sanitizers
#endif

#include "doctest/doctest.h"
#include "store/expert_store.h"
#include "store_support.h"

#include <cstring>
#include <regex>

using namespace hobbit;
using namespace hobbit_tests;

namespace {

std::string error_with(const std::vector<TensorSpec> & specs) {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, specs);
    const GgufModel   model = GgufModel::open(path);
    const std::string error = store_error_of([&] { ExpertStore store(model); });
    if (!error.empty()) {
        CHECK(contains(error, path));
    }
    return error;
}

TensorSpec expert_tensor(const std::string & name, std::vector<int64_t> ne = {32, 32, 4}) {
    return {name, GGML_TYPE_Q8_0, std::move(ne)};
}

} // namespace

TEST_CASE("layers, matrices in the order of use, sizes") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, small_moe());
    const GgufModel   model = GgufModel::open(path);
    const ExpertStore store(model);

    REQUIRE(store.is_moe());
    REQUIRE(store.layers().size() == 2);
    CHECK(store.find_layer(0) == nullptr);
    CHECK(store.find_layer(3) == nullptr);

    const ExpertLayer * three = store.find_layer(1);
    REQUIRE(three != nullptr);
    CHECK(three->layer_idx == 1);
    CHECK(three->n_expert == 4);
    REQUIRE(three->matrices.size() == 3);
    CHECK(three->matrices[0].kind == MatrixKind::up);
    CHECK(three->matrices[1].kind == MatrixKind::gate);
    CHECK(three->matrices[2].kind == MatrixKind::down);
    const ExpertMatrix & down = three->matrices[2];
    CHECK(down.tensor_name == "blk.1.ffn_down_exps.weight");
    CHECK(down.type == GGML_TYPE_F16);
    CHECK(down.n_in == 48);
    CHECK(down.n_out == 32);
    CHECK(down.row_bytes == 96);
    CHECK(down.expert_bytes == 3072);
    CHECK(three->expert_bytes() == 2 * (34 * 48) + 3072);

    const ExpertLayer * fused = store.find_layer(2);
    REQUIRE(fused != nullptr);
    CHECK(fused->n_expert == 6);
    REQUIRE(fused->matrices.size() == 2);
    CHECK(fused->matrices[0].kind == MatrixKind::gate_up);
    CHECK(fused->matrices[1].kind == MatrixKind::down);

    uint64_t all = 0;
    for (const TensorInfo & tensor : model.tensors()) {
        all += tensor.extent.n_bytes;
    }
    CHECK(store.expert_bytes() == 4 * three->expert_bytes() + 6 * fused->expert_bytes());
    CHECK(store.expert_bytes() + store.dense_bytes() == all);
}

TEST_CASE("an expert's extent holds its slice of the tensor, in whichever part that is") {
    const TempFolder              folder;
    const std::vector<TensorSpec> all  = small_moe();
    const auto                    half = all.begin() + 5;
    const GgufModel   model = GgufModel::open(write_split(folder / "model", {{all.begin(), half}, {half, all.end()}}));
    const ExpertStore store(model);
    for (const ExpertLayer & layer : store.layers()) {
        for (uint32_t part_idx = 0; part_idx < layer.matrices.size(); ++part_idx) {
            const ExpertMatrix & matrix = layer.matrices[part_idx];
            const Bytes          tensor = content_of(matrix.tensor_name, matrix.expert_bytes * layer.n_expert);
            for (uint32_t expert_idx = 0; expert_idx < layer.n_expert; ++expert_idx) {
                const FileExtent extent = store.extent(layer, part_idx, expert_idx);
                const Bytes      file   = read_all(model.paths()[extent.file_idx]);
                REQUIRE(extent.n_bytes == matrix.expert_bytes);
                CHECK(std::memcmp(file.data() + extent.offset, tensor.data() + expert_idx * matrix.expert_bytes,
                                  matrix.expert_bytes) == 0);
            }
        }
    }
    CHECK(store.find_layer(1)->matrices[0].extent.file_idx == 1); // up
    CHECK(store.find_layer(1)->matrices[1].extent.file_idx == 0); // gate
}

TEST_CASE("a model without experts, and one whose experts have no gate") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, {{"token_embd.weight", GGML_TYPE_F32, {32, 4}}});
    const ExpertStore dense(GgufModel::open(path));
    CHECK(!dense.is_moe());
    CHECK(dense.expert_bytes() == 0);
    CHECK(dense.dense_bytes() == 512);

    write_gguf(path, {expert_tensor("blk.0.ffn_down_exps.weight"), expert_tensor("blk.0.ffn_up_exps.weight")});
    const ExpertStore two(GgufModel::open(path));
    REQUIRE(two.layers().size() == 1);
    CHECK(two.layers()[0].matrices[0].kind == MatrixKind::up);
    CHECK(two.layers()[0].matrices[1].kind == MatrixKind::down);
}

TEST_CASE("layers are in the order of their numbers, not of their names") {
    const TempFolder        folder;
    std::vector<TensorSpec> specs;
    for (const char * layer : {"10", "9", "65535", "0"}) {
        specs.push_back(expert_tensor(std::string("blk.") + layer + ".ffn_up_exps.weight"));
        specs.push_back(expert_tensor(std::string("blk.") + layer + ".ffn_down_exps.weight"));
    }
    write_gguf(folder / "model.gguf", specs);
    const ExpertStore     store(GgufModel::open(folder / "model.gguf"));
    std::vector<uint16_t> order;
    for (const ExpertLayer & layer : store.layers()) {
        order.push_back(layer.layer_idx);
    }
    CHECK(order == std::vector<uint16_t>{0, 9, 10, 65535});
}

TEST_CASE("llama.cpp's override pattern matches the names taken as experts and no others") {
    const std::regex pattern(ExpertStore::tensor_pattern());
    const TempFolder folder;
    for (const char * name :
         {"blk.0.ffn_up_exps.weight", "blk.12.ffn_gate_exps.weight", "blk.7.ffn_down_exps.weight",
          "blk.65535.ffn_gate_up_exps.weight", "blk.01.ffn_up_exps.weight", "blk..ffn_up_exps.weight",
          "blk.1.ffn_up_exps.bias", "blk.1.ffn_up_exps.weights", "xblk.1.ffn_up_exps.weight",
          "blk.1.ffn_up_chexps.weight", "blk.1.ffn_norm_exps.weight", "blk.1.ffn_up_shexp.weight",
          "blk.1.ffn_up.weight", "blk.-1.ffn_up_exps.weight", "blk.1.ffn_up_gate_exps.weight",
          "blk.1xffn_up_exps.weight", "blk.1.ffn_up_exps.weight.lora_a", "blk.", "blk.1"}) {
        CAPTURE(name);
        // Alone in its layer, an expert tensor is an error; a dense one is not.
        CHECK(std::regex_search(name, pattern) == (error_with({expert_tensor(name)}) != ""));
    }
}

TEST_CASE("layers that llama.cpp could not run are refused") {
    const TensorSpec up    = expert_tensor("blk.3.ffn_up_exps.weight");
    const TensorSpec gate  = expert_tensor("blk.3.ffn_gate_exps.weight");
    const TensorSpec down  = expert_tensor("blk.3.ffn_down_exps.weight");
    const TensorSpec fused = expert_tensor("blk.3.ffn_gate_up_exps.weight");
    CHECK(error_with({up, gate, down}) == "");
    CHECK(contains(error_with({up, gate}), "layer 3 the expert tensors " + up.name + ", " + gate.name + ", expected"));
    CHECK(contains(error_with({gate, down}), "expected up and down"));
    CHECK(contains(error_with({down}), "expected up and down"));
    CHECK(contains(error_with({fused, up, down}), "expected up and down"));

    const std::string mismatch = error_with({up, expert_tensor("blk.3.ffn_down_exps.weight", {32, 32, 5})});
    CHECK(contains(mismatch, "5 experts in 'blk.3.ffn_down_exps.weight' but 4 in 'blk.3.ffn_up_exps.weight'"));

    for (const std::vector<int64_t> & ne : std::vector<std::vector<int64_t>>{
             {32, 32}, {32, 32, 1}, {32}, {32, 32, 4, 2}, {32, 1, 65536}, {32, 0, 4}, {0, 32, 4}}) {
        CAPTURE(ne.size());
        CHECK(contains(error_with({expert_tensor("blk.3.ffn_up_exps.weight", ne)}), "expected three dimensions"));
    }
    for (const char * layer_idx : {"65536", "99999999999999999999"}) {
        const std::string name = std::string("blk.") + layer_idx + ".ffn_up_exps.weight";
        CHECK(contains(error_with({expert_tensor(name)}), "a layer of at most 65535"));
    }
}
