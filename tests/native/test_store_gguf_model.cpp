#include "doctest/doctest.h"
#include "store/gguf_model.h"
#include "store_support.h"

#include <algorithm>
#include <cstring>
#include <sys/stat.h>

using namespace hobbit;
using namespace hobbit_tests;

namespace {

std::string error_of_opening(const std::string & path) {
    const QuietGgml quiet;
    return store_error_of([&] { GgufModel::open(path); });
}

std::vector<std::vector<TensorSpec>> three_parts() {
    const std::vector<TensorSpec> all = small_moe();
    return {{all.begin(), all.begin() + 3}, {all.begin() + 3, all.begin() + 6}, {all.begin() + 6, all.end()}};
}

// Every tensor is where the model says, with the bytes that were written.
void check_tensors(const GgufModel & model, const std::vector<TensorSpec> & specs) {
    REQUIRE(model.tensors().size() == specs.size());
    for (size_t i = 0; i < specs.size(); ++i) {
        const TensorInfo & tensor = model.tensors()[i];
        CAPTURE(specs[i].name);
        CHECK(tensor.name == specs[i].name);
        CHECK(tensor.type == specs[i].type);
        for (size_t d = 0; d < tensor.ne.size(); ++d) {
            CHECK(tensor.ne[d] == (d < specs[i].ne.size() ? specs[i].ne[d] : 1));
        }
        const Bytes file = read_all(model.paths().at(tensor.extent.file_idx));
        REQUIRE(tensor.extent.offset + tensor.extent.n_bytes <= file.size());
        const Bytes expected = content_of(tensor.name, tensor.extent.n_bytes);
        CHECK(std::memcmp(file.data() + tensor.extent.offset, expected.data(), expected.size()) == 0);
    }
}

} // namespace

TEST_CASE("a single file: tensors, sizes, metadata") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, small_moe(), [](gguf_context * gguf) {
        gguf_set_val_str(gguf, "general.architecture", "llama");
        gguf_set_val_u32(gguf, "llama.expert_count", 4);
        gguf_set_val_u64(gguf, "huge", UINT64_MAX);
        gguf_set_val_f32(gguf, "float", 1.5f);
        const int32_t per_layer[] = {-7, 9, 3};
        gguf_set_arr_data(gguf, "per_layer", GGUF_TYPE_INT32, per_layer, 3);
        gguf_set_arr_data(gguf, "none", GGUF_TYPE_INT32, per_layer, 0);
        const char * words[] = {"a", "b"};
        gguf_set_arr_str(gguf, "words", words, 2);
    });
    const GgufModel model = GgufModel::open(path);

    CHECK(model.paths() == std::vector<std::string>{path});
    CHECK(model.file_sizes() == std::vector<uint64_t>{std::filesystem::file_size(path)});
    check_tensors(model, small_moe());

    CHECK(model.get_string("general.architecture") == "llama");
    CHECK(model.get_string("llama.expert_count") == "");
    CHECK(model.get_string("absent") == "");
    CHECK(model.get_int("llama.expert_count", -1) == 4);
    CHECK(model.get_int("per_layer", -1) == 9);
    CHECK(model.get_int("huge", -1) == INT64_MAX);
    for (const char * key : {"absent", "float", "none", "words", "general.architecture"}) {
        CAPTURE(key);
        CHECK(model.get_int(key, -1) == -1);
    }
}

TEST_CASE("tensor data is found behind a header of another alignment") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, {{"a", GGML_TYPE_F32, {64}}, {"b", GGML_TYPE_F32, {64}}},
               [](gguf_context * gguf) { gguf_set_val_u32(gguf, "general.alignment", 8); });
    const GgufModel model = GgufModel::open(path);
    CHECK(model.tensors()[1].extent.offset - model.tensors()[0].extent.offset == 256);
    CHECK(model.tensors()[0].extent.offset % 8 == 0);
}

TEST_CASE("a split model is one list of tensors over its parts") {
    const TempFolder  folder;
    const std::string first = write_split(folder / "model", three_parts(), [](gguf_context * gguf) {
        gguf_set_val_str(gguf, "general.architecture", "llama");
    });
    const GgufModel   model = GgufModel::open(first);
    REQUIRE(model.paths().size() == 3);
    CHECK(model.paths()[2] == part_name(folder / "model", 2, 3));
    CHECK(model.file_sizes()[1] == std::filesystem::file_size(model.paths()[1]));
    CHECK(model.get_string("general.architecture") == "llama");
    check_tensors(model, small_moe());
    CHECK(model.tensors().front().extent.file_idx == 0);
    CHECK(model.tensors().back().extent.file_idx == 2);
}

TEST_CASE("the first part of a split model may hold metadata only") {
    const TempFolder folder;
    const GgufModel  model = GgufModel::open(write_split(folder / "model", {{}, small_moe()}));
    check_tensors(model, small_moe());
    CHECK(model.tensors().front().extent.file_idx == 1);
}

TEST_CASE("what is no GGUF file is told apart") {
    const TempFolder folder;
    CHECK(contains(error_of_opening(folder / "none.gguf"), "does not exist"));
    CHECK(contains(error_of_opening(folder / ""), "is a folder"));

    const std::string path = folder / "odd.gguf";
    write_all(path, {});
    CHECK(contains(error_of_opening(path), "is empty"));
    write_all(path, {'G', 'G'});
    CHECK(contains(error_of_opening(path), "is not a GGUF file"));
    write_all(path, {'P', 'K', 3, 4, 0, 0, 0, 0});
    CHECK(contains(error_of_opening(path), "is not a GGUF file"));
    write_all(path, {'G', 'G', 'U', 'F', 3});
    CHECK(contains(error_of_opening(path), "is truncated"));
    write_all(path, {'G', 'G', 'U', 'F', 0, 0, 0, 3});
    CHECK(contains(error_of_opening(path), "other byte order"));
    write_all(path, {'G', 'G', 'U', 'F', 1, 0, 0, 0});
    CHECK(contains(error_of_opening(path), "version 1, expected 2 or 3"));

    REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
    CHECK(contains(error_of_opening(folder / "fifo"), "is not a regular file"));

    write_gguf(path, {});
    CHECK(contains(error_of_opening(path), "holds no tensors"));
}

TEST_CASE("every truncation is found") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, small_moe(), [](gguf_context * gguf) { gguf_set_val_str(gguf, "general.name", "model"); });
    const GgufModel model        = GgufModel::open(path);
    const Bytes     whole        = read_all(path);
    const auto &    last         = model.tensors().back();
    const size_t    header_bytes = model.tensors().front().extent.offset;

    for (size_t n = 1; n < header_bytes; ++n) {
        CAPTURE(n);
        write_all(path, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)));
        const std::string error = error_of_opening(path);
        CHECK(contains(error, path));
    }
    for (const TensorInfo & tensor : model.tensors()) {
        CAPTURE(tensor.name);
        write_all(path, whole);
        std::filesystem::resize_file(path, tensor.extent.offset + tensor.extent.n_bytes - 1);
        const std::string error = error_of_opening(path);
        CHECK(contains(error, "is truncated: tensor '" + tensor.name + "' needs " +
                                  std::to_string(tensor.extent.n_bytes) + " bytes"));
        CHECK(contains(error, "a file of " + std::to_string(tensor.extent.offset + tensor.extent.n_bytes - 1)));
    }
    // The padding behind the last tensor is not needed.
    write_all(path, whole);
    std::filesystem::resize_file(path, last.extent.offset + last.extent.n_bytes);
    CHECK(error_of_opening(path) == "");
}

TEST_CASE("any one wrong byte of the header gives a model or a StoreError") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, {{"blk.0.ffn_up_exps.weight", GGML_TYPE_Q8_0, {32, 2, 2}}, {"b", GGML_TYPE_F32, {8}}},
               [](gguf_context * gguf) {
                   gguf_set_val_u32(gguf, "general.alignment", 32);
                   const char * words[] = {"a", "b"};
                   gguf_set_arr_str(gguf, "words", words, 2);
               });
    const Bytes  whole        = read_all(path);
    const size_t header_bytes = GgufModel::open(path).tensors().front().extent.offset;
    size_t       n_refused    = 0;
    for (size_t i = 0; i < header_bytes; ++i) {
        for (const int value : {0x00, 0x01, 0x09, 0x7f, 0x80, 0xff}) {
            Bytes damaged = whole;
            damaged[i]    = static_cast<char>(value);
            write_all(path, damaged);
            n_refused += error_of_opening(path) != "";
        }
    }
    CHECK(n_refused > header_bytes);
}

TEST_CASE("a key without a name, on which ggml's setters would abort, is refused") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, small_moe(), [](gguf_context * gguf) { gguf_set_val_u32(gguf, "some_key", 1); });
    Bytes             bytes                                          = read_all(path);
    const std::string key                                            = "some_key";
    *std::search(bytes.begin(), bytes.end(), key.begin(), key.end()) = '\0';
    write_all(path, bytes);
    CHECK(contains(error_of_opening(path), "a key without a name"));
}

TEST_CASE("parts that do not make one model are refused") {
    const TempFolder  folder;
    const std::string prefix = folder / "model";
    const std::string first  = write_split(prefix, three_parts());
    const std::string second = part_name(prefix, 1, 3);
    REQUIRE(error_of_opening(first) == "");

    SUBCASE("a part other than the first is named") {
        const std::string error = error_of_opening(second);
        CHECK(contains(error, "part 2 of 3"));
        CHECK(contains(error, "name the first one, '" + first + "'"));
    }
    SUBCASE("the first part has another name") {
        std::filesystem::rename(first, folder / "renamed.gguf");
        CHECK(contains(error_of_opening(folder / "renamed.gguf"), "does not end in '-00001-of-00003.gguf'"));
    }
    SUBCASE("a part in the middle is missing") {
        std::filesystem::remove(second);
        CHECK(contains(error_of_opening(first), "'" + second + "', part 2 of 3 of the model, does not exist"));
    }
    SUBCASE("the last part is missing") {
        std::filesystem::remove(part_name(prefix, 2, 3));
        CHECK(contains(error_of_opening(first), "part 3 of 3 of the model, does not exist"));
    }
    SUBCASE("a part is truncated") {
        std::filesystem::resize_file(second, std::filesystem::file_size(second) - 4096);
        CHECK(contains(error_of_opening(first), "'" + second + "' is truncated: tensor 'blk.1.ffn_"));
    }
    SUBCASE("two parts are exchanged") {
        std::filesystem::rename(part_name(prefix, 2, 3), second);
        std::filesystem::copy_file(second, part_name(prefix, 2, 3));
        CHECK(contains(error_of_opening(first), "does not say so (split.no 2, split.count 3)"));
    }
    SUBCASE("a part is a whole model") {
        write_gguf(second, three_parts()[1]);
        CHECK(contains(error_of_opening(first), "does not say so (split.no -1"));
    }
    SUBCASE("a part has a tensor fewer") {
        write_gguf(second, {three_parts()[1][0]}, [](gguf_context * gguf) { set_split(gguf, 1, 3, 10); });
        CHECK(contains(error_of_opening(first), "hold 8 tensors, expected 10"));
    }
    SUBCASE("a tensor is in two parts") {
        std::vector<TensorSpec> specs = three_parts()[1];
        specs[1]                      = three_parts()[0][0];
        write_gguf(second, specs, [](gguf_context * gguf) { set_split(gguf, 1, 3, 10); });
        CHECK(contains(error_of_opening(first), "'" + second + "' holds tensor 'token_embd.weight' a second time"));
    }
    SUBCASE("the number of parts is absurd") {
        write_gguf(first, three_parts()[0],
                   [](gguf_context * gguf) { gguf_set_val_u64(gguf, "split.count", UINT64_MAX); });
        CHECK(contains(error_of_opening(first), "split.count is no integer of 16 bits"));
    }
    SUBCASE("the number of parts is none") {
        write_gguf(first, three_parts()[0], [](gguf_context * gguf) { gguf_set_val_f32(gguf, "split.count", 3.0f); });
        CHECK(contains(error_of_opening(first), "split.count is no integer of 16 bits"));
    }
    SUBCASE("a part does not say which it is") {
        write_gguf(first, three_parts()[0], [](gguf_context * gguf) { gguf_set_val_u16(gguf, "split.count", 3); });
        CHECK(contains(error_of_opening(first), "does not say validly which"));
    }
}
