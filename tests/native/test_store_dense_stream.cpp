#include "doctest/doctest.h"
#include "store/dense_stream.h"
#include "store_support.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

using namespace hobbit;
using namespace hobbit_tests;

namespace {

constexpr char untouched = '\x5a';

void set_metadata(gguf_context * gguf) {
    gguf_set_val_str(gguf, "general.architecture", "llama");
    gguf_set_val_u32(gguf, "general.alignment", 32);
    gguf_set_val_f64(gguf, "scale", 0.25);
    const char * words[] = {"hello", "", "\xc3\xa9"};
    gguf_set_arr_str(gguf, "tokenizer.ggml.tokens", words, 3);
    const float scores[] = {1.0f, -2.5f, 0.0f};
    gguf_set_arr_data(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, 3);
    const uint8_t flags[] = {1, 0, 1};
    gguf_set_arr_data(gguf, "flags", GGUF_TYPE_BOOL, flags, 3);
}

// A model, its stream, and what a GGUF reader makes of that stream.
struct Opened {
    explicit Opened(const std::string & path)
        : model(GgufModel::open(path)), experts(model), stream(model, experts), gguf(nullptr, &gguf_free) {
        gguf.reset(gguf_init_from_file_ptr(stream.file(), {/*no_alloc =*/true, /*ctx =*/nullptr}));
        REQUIRE(gguf);
        REQUIRE(gguf_get_n_tensors(gguf.get()) == static_cast<int64_t>(model.tensors().size()));
    }

    int64_t begin(size_t tensor_idx) const {
        return static_cast<int64_t>(gguf_get_data_offset(gguf.get()) +
                                    gguf_get_tensor_offset(gguf.get(), static_cast<int64_t>(tensor_idx)));
    }
    size_t n_bytes(size_t tensor_idx) const { return model.tensors()[tensor_idx].extent.n_bytes; }
    size_t find(const std::string & name) const {
        return static_cast<size_t>(gguf_find_tensor(gguf.get(), name.c_str()));
    }

    GgufModel                                           model;
    ExpertStore                                         experts;
    DenseStream                                         stream;
    std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf;
};

bool is_expert(const std::string & name) { return contains(name, "_exps.weight"); }

// As llama.cpp's loader reads a tensor: seek, ask for the position, read at most what is left. False: it would throw.
bool load_tensor(FILE * file, int64_t begin, void * dst, size_t n_bytes) {
    if (::fseeko(file, 0, SEEK_END) != 0) {
        return false;
    }
    const int64_t size = ::ftello(file);
    if (size < 0 || ::fseeko(file, begin, SEEK_SET) != 0) {
        return false;
    }
    const int64_t position = ::ftello(file);
    if (position < 0 || position > size) {
        return false;
    }
    const size_t n_left = std::min(n_bytes, static_cast<size_t>(size - position));
    const size_t n_read = std::fread(dst, n_left, 1, file);
    return !std::ferror(file) && (n_left == 0 || n_read == 1);
}

void check_every_tensor(Opened & opened) {
    uint64_t dense_bytes = 0;
    for (size_t i = 0; i < opened.model.tensors().size(); ++i) {
        const TensorInfo & tensor = opened.model.tensors()[i];
        CAPTURE(tensor.name);
        CHECK(gguf_get_tensor_name(opened.gguf.get(), static_cast<int64_t>(i)) == tensor.name);
        CHECK(gguf_get_tensor_type(opened.gguf.get(), static_cast<int64_t>(i)) == tensor.type);
        CHECK(std::equal(tensor.ne.begin(), tensor.ne.end(),
                         gguf_get_tensor_ne(opened.gguf.get(), static_cast<int64_t>(i))));
        Bytes bytes(tensor.extent.n_bytes, untouched);
        REQUIRE(load_tensor(opened.stream.file(), opened.begin(i), bytes.data(), bytes.size()));
        if (is_expert(tensor.name)) {
            CHECK(bytes == Bytes(bytes.size(), untouched));
        } else {
            CHECK(bytes == content_of(tensor.name, bytes.size()));
            dense_bytes += bytes.size();
        }
    }
    CHECK(opened.stream.read_bytes() == dense_bytes);
    CHECK(opened.experts.dense_bytes() == dense_bytes);
    CHECK(opened.stream.error() == "");
}

void check_metadata(const Opened & opened) {
    const gguf_context * gguf = opened.gguf.get();
    for (const char * key : {"split.no", "split.count", "split.tensors.count"}) {
        CHECK(gguf_find_key(gguf, key) < 0);
    }
    CHECK(std::string(gguf_get_val_str(gguf, gguf_find_key(gguf, "general.architecture"))) == "llama");
    CHECK(gguf_get_val_f64(gguf, gguf_find_key(gguf, "scale")) == 0.25);
    const int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    REQUIRE(gguf_get_arr_n(gguf, tokens) == 3);
    CHECK(std::string(gguf_get_arr_str(gguf, tokens, 0)) == "hello");
    CHECK(std::string(gguf_get_arr_str(gguf, tokens, 1)) == "");
    CHECK(std::string(gguf_get_arr_str(gguf, tokens, 2)) == "\xc3\xa9");
    const int64_t score_key = gguf_find_key(gguf, "tokenizer.ggml.scores");
    const auto *  scores    = static_cast<const float *>(gguf_get_arr_data(gguf, score_key));
    CHECK(scores[1] == -2.5f);
    const auto * flags = static_cast<const int8_t *>(gguf_get_arr_data(gguf, gguf_find_key(gguf, "flags")));
    CHECK(gguf_get_arr_type(gguf, gguf_find_key(gguf, "flags")) == GGUF_TYPE_BOOL);
    CHECK((flags[0] == 1 && flags[1] == 0 && flags[2] == 1));
}

} // namespace

TEST_CASE("a single file as a stream") {
    const TempFolder folder;
    write_gguf(folder / "model.gguf", small_moe(), set_metadata);
    Opened opened(folder / "model.gguf");
    check_every_tensor(opened);
    check_metadata(opened);
}

TEST_CASE("a split model as a stream is one file") {
    const TempFolder              folder;
    const std::vector<TensorSpec> all  = small_moe();
    const auto                    half = all.begin() + 4;
    Opened opened(write_split(folder / "model", {{}, {all.begin(), half}, {half, all.end()}}, set_metadata));
    check_every_tensor(opened);
    check_metadata(opened);
}

TEST_CASE("a model of another alignment") {
    const TempFolder folder;
    // ggml's writer ignores the key; 256 bytes each are laid out alike for alignments of 8 and 32.
    const std::vector<TensorSpec> specs = {{"a", GGML_TYPE_F32, {64}}, {"b", GGML_TYPE_F32, {64}}};
    write_gguf(folder / "model.gguf", specs,
               [](gguf_context * gguf) { gguf_set_val_u32(gguf, "general.alignment", 8); });
    Opened opened(folder / "model.gguf");
    check_every_tensor(opened);
}

TEST_CASE("tensors longer than the stream's buffer, and empty ones") {
    const TempFolder              folder;
    const std::vector<TensorSpec> specs = {{"empty", GGML_TYPE_F32, {0}},
                                           {"long", GGML_TYPE_F32, {1000, 1000}},
                                           {"blk.0.ffn_up_exps.weight", GGML_TYPE_F16, {1000, 300, 4}},
                                           {"blk.0.ffn_down_exps.weight", GGML_TYPE_F16, {300, 1000, 4}},
                                           {"longer", GGML_TYPE_F32, {3000, 1001}}};
    write_gguf(folder / "model.gguf", specs);
    Opened opened(folder / "model.gguf");
    check_every_tensor(opened);
}

TEST_CASE("the destination of an expert tensor may be inaccessible memory") {
    const TempFolder folder;
    write_gguf(folder / "model.gguf", small_moe(), set_metadata);
    Opened       opened(folder / "model.gguf");
    const size_t expert  = opened.find("blk.1.ffn_gate_exps.weight");
    const size_t n_bytes = opened.n_bytes(expert);
    void *       memory  = ::mmap(nullptr, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);

    FILE * file = opened.stream.file();
    CHECK(load_tensor(file, opened.begin(expert), memory, n_bytes));
    // Also with something in the stream's buffer, and from within the tensor.
    REQUIRE(::fseeko(file, opened.begin(0), SEEK_SET) == 0);
    REQUIRE(std::fgetc(file) != EOF);
    CHECK(load_tensor(file, opened.begin(expert), memory, n_bytes));
    CHECK(load_tensor(file, opened.begin(expert) + 100, memory, n_bytes - 100));
    ::munmap(memory, n_bytes);
}

TEST_CASE("one read across header, dense tensor, expert tensor, padding") {
    const TempFolder folder;
    write_gguf(folder / "model.gguf", small_moe(), set_metadata);
    Opened opened(folder / "model.gguf");
    FILE * file = opened.stream.file();
    REQUIRE(::fseeko(file, 0, SEEK_END) == 0);
    const auto size = static_cast<size_t>(::ftello(file));
    Bytes      all(size, untouched);
    std::rewind(file);
    REQUIRE(std::fread(all.data(), 1, size, file) == size);
    Bytes in_pieces(size, untouched); // of a length that divides nothing
    std::rewind(file);
    for (size_t i = 0; i < size; i += 3001) {
        const size_t n = std::min<size_t>(3001, size - i);
        REQUIRE(std::fread(in_pieces.data() + i, 1, n, file) == n);
    }
    CHECK(all == in_pieces);

    CHECK(std::memcmp(all.data(), GGUF_MAGIC, 4) == 0);
    size_t end_of_last = gguf_get_data_offset(opened.gguf.get());
    for (size_t i = 0; i < opened.model.tensors().size(); ++i) {
        const std::string & name  = opened.model.tensors()[i].name;
        const auto          begin = static_cast<size_t>(opened.begin(i));
        CAPTURE(name);
        CHECK(std::all_of(all.data() + end_of_last, all.data() + begin, [](char c) { return c == 0; }));
        const size_t n_bytes  = opened.n_bytes(i);
        const Bytes  expected = is_expert(name) ? Bytes(n_bytes, '\0') : content_of(name, n_bytes);
        CHECK(std::memcmp(all.data() + begin, expected.data(), expected.size()) == 0);
        end_of_last = begin + expected.size();
    }
}

TEST_CASE("seeking") {
    const TempFolder folder;
    write_gguf(folder / "model.gguf", small_moe(), set_metadata);
    Opened opened(folder / "model.gguf");
    FILE * file = opened.stream.file();
    REQUIRE(::fseeko(file, 0, SEEK_END) == 0);
    const int64_t size = ::ftello(file);
    CHECK(size > 0);
    CHECK(std::fgetc(file) == EOF);
    CHECK(std::feof(file));
    CHECK(!std::ferror(file));

    CHECK(::fseeko(file, -size, SEEK_END) == 0);
    CHECK(::ftello(file) == 0);
    CHECK(::fseeko(file, 4, SEEK_CUR) == 0);
    CHECK(::ftello(file) == 4);
    CHECK(std::fgetc(file) == 3); // GGUF version
    CHECK(::ftello(file) == 5);

    CHECK(::fseeko(file, -6, SEEK_CUR) != 0);
    CHECK(::fseeko(file, -size - 1, SEEK_END) != 0);
    CHECK(::ftello(file) == 5);

    const int64_t norm = opened.begin(opened.find("blk.1.ffn_norm.weight"));
    const Bytes   text = content_of("blk.1.ffn_norm.weight", 12);
    CHECK(::fseeko(file, norm + 5, SEEK_SET) == 0);
    CHECK(::ftello(file) == norm + 5);
    CHECK(std::fgetc(file) == static_cast<unsigned char>(text[5]));
    CHECK(::fseeko(file, 12, SEEK_CUR) == 0); // into the padding
    CHECK(::ftello(file) == norm + 18);
    CHECK(std::fgetc(file) == 0);
    CHECK(::fseeko(file, -9, SEEK_CUR) == 0);
    CHECK(std::fgetc(file) == static_cast<unsigned char>(text[10]));

    // Into an expert tensor and beyond the end: at the end.
    const int64_t expert = opened.begin(opened.find("blk.1.ffn_down_exps.weight"));
    for (const int64_t offset : {expert, expert + 1, expert + 3071, size, size + 1, INT64_MAX}) {
        CAPTURE(offset);
        CHECK(::fseeko(file, norm, SEEK_SET) == 0);
        CHECK(::fseeko(file, offset, SEEK_SET) == 0);
        CHECK(::ftello(file) == size);
    }
    char byte = untouched;
    CHECK(std::fread(&byte, 1, 1, file) == 0);
    CHECK(byte == untouched);
}

TEST_CASE("a read that fails is an error of the stream and names file and offset") {
    const TempFolder              folder;
    const std::vector<TensorSpec> all = small_moe();
    Opened       opened(write_split(folder / "model", {{all.begin(), all.begin() + 4}, {all.begin() + 4, all.end()}}));
    const size_t output = opened.find("output.weight");
    const auto & extent = opened.model.tensors()[output].extent;
    const auto & path   = opened.model.paths()[extent.file_idx];
    std::filesystem::resize_file(path, extent.offset + 10);

    Bytes bytes(extent.n_bytes);
    REQUIRE(::fseeko(opened.stream.file(), opened.begin(output), SEEK_SET) == 0);
    CHECK(opened.stream.error() == "");
    CHECK(std::fread(bytes.data(), bytes.size(), 1, opened.stream.file()) == 0);
    CHECK(std::ferror(opened.stream.file()));
    const std::string error = opened.stream.error();
    CHECK(contains(error, "'" + path + "' cannot be read at offset " + std::to_string(extent.offset + 10) +
                              ": it ends there"));

    // The first failure is kept; what can be read still is.
    std::filesystem::resize_file(path, 0);
    std::clearerr(opened.stream.file());
    REQUIRE(::fseeko(opened.stream.file(), opened.begin(output), SEEK_SET) == 0);
    CHECK(std::fread(bytes.data(), bytes.size(), 1, opened.stream.file()) == 0);
    CHECK(opened.stream.error() == error);
    std::clearerr(opened.stream.file());
    REQUIRE(::fseeko(opened.stream.file(), opened.begin(0), SEEK_SET) == 0);
    bytes.resize(opened.n_bytes(0));
    CHECK(std::fread(bytes.data(), bytes.size(), 1, opened.stream.file()) == 1);
    CHECK(bytes == content_of("token_embd.weight", bytes.size()));
}

TEST_CASE("a file that is gone when the stream is made") {
    const TempFolder  folder;
    const std::string path = folder / "model.gguf";
    write_gguf(path, small_moe());
    const GgufModel   model = GgufModel::open(path);
    const ExpertStore experts(model);
    std::filesystem::remove(path);
    CHECK(contains(store_error_of([&] { DenseStream stream(model, experts); }), "'" + path + "' does not exist"));
}
