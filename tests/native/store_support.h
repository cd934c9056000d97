// Small GGUF models, whole or split, whose bytes are known, for the tests of store.
#pragma once

#include "ggml.h"
#include "gguf.h"
#include "store/store_error.h"

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace hobbit_tests {

class TempFolder {
  public:
    TempFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "hobbit_test_XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) {
            throw std::runtime_error("cannot make a temporary folder");
        }
        path_ = name;
    }
    ~TempFolder() { std::filesystem::remove_all(path_); }
    TempFolder(const TempFolder &)             = delete;
    TempFolder & operator=(const TempFolder &) = delete;

    std::string operator/(const std::string & name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

using Bytes = std::vector<char>;

inline Bytes read_all(const std::string & path) {
    std::ifstream in(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(in), {});
}

inline void write_all(const std::string & path, const Bytes & bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

struct TensorSpec {
    std::string          name;
    ggml_type            type;
    std::vector<int64_t> ne;
};

// What the tests' writer puts into a tensor: depends on its name, so that no two tensors are alike.
inline Bytes content_of(const std::string & name, size_t n_bytes) {
    std::seed_seq seed(name.begin(), name.end());
    std::mt19937  rng(seed);
    Bytes         bytes(n_bytes);
    for (char & byte : bytes) {
        byte = static_cast<char>(rng());
    }
    return bytes;
}

using SetMetadata = std::function<void(gguf_context *)>;

inline void write_gguf(
    const std::string & path, const std::vector<TensorSpec> & specs,
    const SetMetadata & set_metadata = [](gguf_context *) {}) {
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf(gguf_init_empty(), &gguf_free);
    set_metadata(gguf.get());
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> ggml(
        ggml_init({(specs.size() + 1) * ggml_tensor_overhead(), nullptr, /*no_alloc =*/true}), &ggml_free);
    std::vector<Bytes> contents;
    for (const TensorSpec & spec : specs) {
        ggml_tensor * tensor = ggml_new_tensor(ggml.get(), spec.type, static_cast<int>(spec.ne.size()), spec.ne.data());
        ggml_set_name(tensor, spec.name.c_str());
        contents.push_back(content_of(spec.name, ggml_nbytes(tensor)));
        contents.back().reserve(1); // the writer wants an address even of nothing
        tensor->data = contents.back().data();
        gguf_add_tensor(gguf.get(), tensor);
    }
    if (!gguf_write_to_file(gguf.get(), path.c_str(), /*only_meta =*/false)) {
        throw std::runtime_error("cannot write " + path);
    }
}

inline std::string part_name(const std::string & prefix, int part_idx, int n_parts) {
    char suffix[48];
    std::snprintf(suffix, sizeof(suffix), "-%05d-of-%05d.gguf", part_idx + 1, n_parts);
    return prefix + suffix;
}

inline void set_split(gguf_context * gguf, int part_idx, int n_parts, int n_tensors) {
    gguf_set_val_u16(gguf, "split.no", static_cast<uint16_t>(part_idx));
    gguf_set_val_u16(gguf, "split.count", static_cast<uint16_t>(n_parts));
    gguf_set_val_i32(gguf, "split.tensors.count", n_tensors);
}

// Returns the path of the first part.
inline std::string write_split(
    const std::string & prefix, const std::vector<std::vector<TensorSpec>> & parts,
    const SetMetadata & set_metadata = [](gguf_context *) {}) {
    size_t n_tensors = 0;
    for (const auto & specs : parts) {
        n_tensors += specs.size();
    }
    const int n_parts = static_cast<int>(parts.size());
    for (int i = 0; i < n_parts; ++i) {
        write_gguf(part_name(prefix, i, n_parts), parts[static_cast<size_t>(i)], [&](gguf_context * gguf) {
            if (i == 0) {
                set_metadata(gguf);
            }
            set_split(gguf, i, n_parts, static_cast<int>(n_tensors));
        });
    }
    return part_name(prefix, 0, n_parts);
}

// One dense layer, then two layers of experts of different types, written in another order than they are used.
inline std::vector<TensorSpec> small_moe() {
    return {
        {"token_embd.weight", GGML_TYPE_F16, {32, 10}},
        {"blk.0.ffn_up.weight", GGML_TYPE_Q8_0, {32, 64}},
        {"blk.1.ffn_gate_exps.weight", GGML_TYPE_Q8_0, {32, 48, 4}},
        {"blk.1.ffn_norm.weight", GGML_TYPE_F32, {3}}, // 12 bytes: padding follows
        {"blk.1.ffn_down_exps.weight", GGML_TYPE_F16, {48, 32, 4}},
        {"blk.1.ffn_up_exps.weight", GGML_TYPE_Q8_0, {32, 48, 4}},
        {"blk.1.ffn_up_exps.bias", GGML_TYPE_F32, {48, 4}},
        {"blk.2.ffn_down_exps.weight", GGML_TYPE_Q4_0, {64, 32, 6}},
        {"blk.2.ffn_gate_up_exps.weight", GGML_TYPE_Q4_0, {32, 128, 6}},
        {"output.weight", GGML_TYPE_F32, {32, 3}},
    };
}

// The message of the StoreError that `action` throws; "" if it throws none.
inline std::string store_error_of(const std::function<void()> & action) {
    try {
        action();
    } catch (const hobbit::StoreError & error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string & text, const std::string & part) {
    return text.find(part) != std::string::npos;
}

// ggml prints what is wrong with a damaged file; the tests damage hundreds.
class QuietGgml {
  public:
    QuietGgml() {
        ggml_log_get(&callback_, &user_data_);
        ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    }
    ~QuietGgml() { ggml_log_set(callback_, user_data_); }
    QuietGgml(const QuietGgml &)             = delete;
    QuietGgml & operator=(const QuietGgml &) = delete;

  private:
    ggml_log_callback callback_  = nullptr;
    void *            user_data_ = nullptr;
};

} // namespace hobbit_tests
