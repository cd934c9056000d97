#include "store/gguf_model.h"

#include "store/open_file.h"
#include "store/store_error.h"
#include "store/text.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <unordered_set>

namespace hobbit {
namespace {

constexpr char key_split_no[]            = "split.no";
constexpr char key_split_count[]         = "split.count";
constexpr char key_split_tensors_count[] = "split.tensors.count";

using GgufContextPtr = std::unique_ptr<gguf_context, decltype(&gguf_free)>;

struct Part {
    GgufContextPtr context;
    uint64_t       n_bytes = 0;
};

// ggml reports damage to its log only, so what can be told apart cheaply is told apart before it parses.
void check_magic(FILE * file, uint64_t n_bytes, const std::string & path) {
    if (n_bytes == 0) {
        throw StoreError(quoted(path) + " is empty: download it again.");
    }
    char     magic[4] = {};
    uint32_t version  = 0;
    if (std::fread(magic, sizeof(magic), 1, file) != 1 || std::memcmp(magic, GGUF_MAGIC, sizeof(magic)) != 0) {
        throw StoreError(quoted(path) + " is not a GGUF file: it does not begin with the letters GGUF.");
    }
    if (std::fread(&version, sizeof(version), 1, file) != 1) {
        throw StoreError(quoted(path) + " is truncated: its header ends after " + std::to_string(n_bytes) +
                         " bytes, download it again.");
    }
    if ((version & 0xFFFF) == 0) {
        throw StoreError(quoted(path) + " is a GGUF file of the other byte order: use one made for this machine.");
    }
    if (version < 2 || version > GGUF_VERSION) {
        throw StoreError(quoted(path) + " is GGUF version " + std::to_string(version) + ", expected 2 or " +
                         std::to_string(GGUF_VERSION) + ": use a file of such a version.");
    }
    std::rewind(file);
}

Part read_part(const std::string & path, const std::string & what) {
    const OpenFile opened = open_file(path, what);
    check_magic(opened.file.get(), opened.n_bytes, path);
    const gguf_init_params params = {/*no_alloc =*/true, /*ctx =*/nullptr};
    GgufContextPtr         context(gguf_init_from_file_ptr(opened.file.get(), params), &gguf_free);
    if (!context) {
        throw StoreError(quoted(path) + " has a GGUF header that is damaged, truncated or uses a tensor type unknown "
                                        "to this release of llama-cpp-python: download it again.");
    }
    for (int64_t i = 0; i < gguf_get_n_kv(context.get()); ++i) {
        // A key that begins with a NUL passes ggml's parser, but its setters abort on it.
        if (*gguf_get_key(context.get(), i) == '\0') {
            throw StoreError(quoted(path) + " has a damaged GGUF header (a key without a name): download it again.");
        }
    }
    return {std::move(context), opened.n_bytes};
}

template <typename T> int64_t element(const void * data, size_t i) {
    T value;
    std::memcpy(&value, static_cast<const char *>(data) + i * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, uint64_t>) {
        value = std::min(value, static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    }
    return static_cast<int64_t>(value);
}

std::optional<int64_t> integer(gguf_type type, const void * data, size_t i) {
    switch (type) {
    case GGUF_TYPE_UINT8:
        return element<uint8_t>(data, i);
    case GGUF_TYPE_INT8:
        return element<int8_t>(data, i);
    case GGUF_TYPE_UINT16:
        return element<uint16_t>(data, i);
    case GGUF_TYPE_INT16:
        return element<int16_t>(data, i);
    case GGUF_TYPE_UINT32:
        return element<uint32_t>(data, i);
    case GGUF_TYPE_INT32:
        return element<int32_t>(data, i);
    case GGUF_TYPE_UINT64:
        return element<uint64_t>(data, i);
    case GGUF_TYPE_INT64:
        return element<int64_t>(data, i);
    default:
        return std::nullopt;
    }
}

std::optional<int64_t> find_int(const gguf_context * context, const char * key) {
    const int64_t key_id = gguf_find_key(context, key);
    if (key_id < 0) {
        return std::nullopt;
    }
    const gguf_type type = gguf_get_kv_type(context, key_id);
    if (type == GGUF_TYPE_STRING) {
        return std::nullopt;
    }
    if (type != GGUF_TYPE_ARRAY) {
        return integer(type, gguf_get_val_data(context, key_id), 0);
    }
    const gguf_type element_type = gguf_get_arr_type(context, key_id);
    if (element_type == GGUF_TYPE_STRING) {
        return std::nullopt;
    }
    std::optional<int64_t> largest;
    const size_t           n = gguf_get_arr_n(context, key_id);
    for (size_t i = 0; i < n; ++i) {
        const std::optional<int64_t> value = integer(element_type, gguf_get_arr_data(context, key_id), i);
        largest                            = std::max(largest, value); // nullopt is less than any value
    }
    return largest;
}

// llama.cpp refuses a number of another kind; taken for absent it would make a whole model of one part.
int64_t count_parts(const gguf_context * context, const std::string & path) {
    const int64_t key_id = gguf_find_key(context, key_split_count);
    if (key_id >= 0 && gguf_get_kv_type(context, key_id) != GGUF_TYPE_UINT16) {
        throw StoreError(quoted(path) + " has a damaged GGUF header (" + key_split_count +
                         " is no integer of 16 bits): download it again.");
    }
    return key_id < 0 ? 1 : gguf_get_val_u16(context, key_id);
}

// What llama.cpp appends to a split model's prefix; part_idx counts from 0, the name from 1.
std::string split_suffix(int64_t part_idx, int64_t n_parts) {
    char suffix[64];
    std::snprintf(suffix, sizeof(suffix), "-%05" PRId64 "-of-%05" PRId64 ".gguf", part_idx + 1, n_parts);
    return suffix;
}

// Paths of all parts of a split model, of which `path` says that it is one.
std::vector<std::string> list_parts(const std::string & path, const gguf_context * context, int64_t n_parts) {
    const int64_t part_idx = find_int(context, key_split_no).value_or(-1);
    if (part_idx < 0 || part_idx >= n_parts) {
        throw StoreError(quoted(path) + " is one of " + std::to_string(n_parts) +
                         " parts but does not say validly which: download it again.");
    }
    const std::string suffix = split_suffix(part_idx, n_parts);
    if (!ends_with(path, suffix)) {
        throw StoreError(quoted(path) + " is part " + std::to_string(part_idx + 1) + " of " + std::to_string(n_parts) +
                         " of a split model, but its name does not end in '" + suffix +
                         "', so the other parts cannot be found: rename it back.");
    }
    const std::string prefix = path.substr(0, path.size() - suffix.size());
    if (part_idx != 0) {
        throw StoreError(quoted(path) + " is part " + std::to_string(part_idx + 1) + " of " + std::to_string(n_parts) +
                         " of a split model: name the first one, " + quoted(prefix + split_suffix(0, n_parts)) + ".");
    }
    std::vector<std::string> paths;
    for (int64_t i = 0; i < n_parts; ++i) {
        paths.push_back(prefix + split_suffix(i, n_parts));
    }
    return paths;
}

Part read_later_part(const std::vector<std::string> & paths, size_t part_idx) {
    const std::string & path  = paths[part_idx];
    const std::string   where = "part " + std::to_string(part_idx + 1) + " of " + std::to_string(paths.size());
    std::error_code     ignored;
    if (!std::filesystem::exists(path, ignored)) {
        throw StoreError(quoted(path) + ", " + where + " of the model, does not exist: put it beside the first part.");
    }
    Part          part    = read_part(path, where);
    const int64_t found   = find_int(part.context.get(), key_split_no).value_or(-1);
    const int64_t n_parts = find_int(part.context.get(), key_split_count).value_or(static_cast<int64_t>(paths.size()));
    if (found != static_cast<int64_t>(part_idx) || n_parts != static_cast<int64_t>(paths.size())) {
        throw StoreError(quoted(path) + " is named as " + where + " of the model but its header does not say so (" +
                         key_split_no + " " + std::to_string(found) + ", " + key_split_count + " " +
                         std::to_string(n_parts) + "): download that part again.");
    }
    return part;
}

void append_tensors(const Part & part, const std::string & path, uint32_t file_idx, std::vector<TensorInfo> & tensors) {
    const gguf_context * context     = part.context.get();
    const uint64_t       data_offset = gguf_get_data_offset(context);
    for (int64_t i = 0; i < gguf_get_n_tensors(context); ++i) {
        TensorInfo tensor;
        tensor.name = gguf_get_tensor_name(context, i);
        tensor.type = gguf_get_tensor_type(context, i);
        std::copy_n(gguf_get_tensor_ne(context, i), tensor.ne.size(), tensor.ne.begin());
        const uint64_t offset  = gguf_get_tensor_offset(context, i);
        const uint64_t n_bytes = gguf_get_tensor_size(context, i);
        // Compared by subtraction: the sum of what a damaged header says may overflow.
        const uint64_t n_after_header = part.n_bytes - std::min(part.n_bytes, data_offset);
        if (offset > n_after_header || n_bytes > n_after_header - offset) {
            throw StoreError(quoted(path) + " is truncated: tensor '" + tensor.name + "' needs " +
                             std::to_string(n_bytes) + " bytes at offset " + std::to_string(offset) +
                             " of the tensor data, found " + std::to_string(n_after_header) +
                             " bytes of data in a file of " + std::to_string(part.n_bytes) + ": download it again.");
        }
        tensor.extent = {file_idx, data_offset + offset, n_bytes};
        tensors.push_back(std::move(tensor));
    }
}

void check_names_unique(const std::vector<TensorInfo> & tensors, const std::vector<std::string> & paths) {
    std::unordered_set<std::string> names;
    for (const TensorInfo & tensor : tensors) {
        if (!names.insert(tensor.name).second) {
            throw StoreError(quoted(paths[tensor.extent.file_idx]) + " holds tensor '" + tensor.name +
                             "' a second time: download the model again.");
        }
    }
}

} // namespace

GgufModel GgufModel::open(const std::string & path, const std::string & what) {
    GgufModel     model;
    Part          first   = read_part(path, what);
    const int64_t n_parts = count_parts(first.context.get(), path);
    model.paths_ = n_parts > 1 ? list_parts(path, first.context.get(), n_parts) : std::vector<std::string>{path};

    model.file_sizes_.push_back(first.n_bytes);
    append_tensors(first, path, 0, model.tensors_);
    for (size_t i = 1; i < model.paths_.size(); ++i) {
        const Part part = read_later_part(model.paths_, i);
        model.file_sizes_.push_back(part.n_bytes);
        append_tensors(part, model.paths_[i], static_cast<uint32_t>(i), model.tensors_);
    }
    model.metadata_.reset(first.context.release());

    const auto    n_found    = static_cast<int64_t>(model.tensors_.size());
    const int64_t n_expected = model.get_int(key_split_tensors_count, 0);
    if (model.paths_.size() > 1 && n_found != n_expected) {
        throw StoreError(quoted(path) + " and its other parts hold " + std::to_string(n_found) + " tensors, expected " +
                         std::to_string(n_expected) + " (" + key_split_tensors_count +
                         "): download all parts again, from one source.");
    }
    if (n_found == 0) {
        throw StoreError(quoted(path) + " holds no tensors: name a model, not a vocabulary.");
    }
    check_names_unique(model.tensors_, model.paths_);
    return model;
}

int64_t GgufModel::get_int(const std::string & key, int64_t fallback) const {
    return find_int(metadata_.get(), key.c_str()).value_or(fallback);
}

std::string GgufModel::get_string(const std::string & key) const {
    const int64_t key_id = gguf_find_key(metadata_.get(), key.c_str());
    if (key_id < 0 || gguf_get_kv_type(metadata_.get(), key_id) != GGUF_TYPE_STRING) {
        return "";
    }
    return gguf_get_val_str(metadata_.get(), key_id);
}

} // namespace hobbit
