// A GGUF model on disk, one file or several parts: its metadata and where every tensor's bytes are.
#pragma once

#include "base/types.h"
#include "ggml.h"
#include "gguf.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

struct TensorInfo {
    std::string            name;
    ggml_type              type = GGML_TYPE_F32;
    std::array<int64_t, 4> ne   = {1, 1, 1, 1};
    FileExtent             extent; // absolute offset within its file
};

// Everything is checked when it is opened: the parts exist, are readable and belong together, every tensor lies inside
// its file, offsets do not overflow. After that the rest of the code assumes it.
class GgufModel {
  public:
    // `path` is the file, or the first of its parts (name-00001-of-0000N.gguf). Throws StoreError.
    // `what` it is, for whoever named a file that does not exist.
    static GgufModel open(const std::string & path, const std::string & what = "the model");

    const std::vector<std::string> & paths() const { return paths_; }
    const std::vector<uint64_t> &    file_sizes() const { return file_sizes_; }
    const std::vector<TensorInfo> &  tensors() const { return tensors_; }

    // Metadata of the first part. Borrowed; lives as long as this object.
    const gguf_context * metadata() const { return metadata_.get(); }

    // An integer (u32, i32, u64 ...) or, for per-layer arrays, their largest element; `fallback` if it is absent.
    int64_t     get_int(const std::string & key, int64_t fallback) const;
    std::string get_string(const std::string & key) const; // "" if it is absent

  private:
    struct GgufFree {
        void operator()(gguf_context * ctx) const { gguf_free(ctx); }
    };

    std::vector<std::string>                paths_;
    std::vector<uint64_t>                   file_sizes_;
    std::vector<TensorInfo>                 tensors_;
    std::unique_ptr<gguf_context, GgufFree> metadata_;
};

} // namespace hobbit
