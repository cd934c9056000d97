#include "store/dense_stream.h"

#include "store/open_file.h"
#include "store/store_error.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <unistd.h>
#include <unordered_set>

namespace hobbit {
namespace {

// Size of the stream's buffer and, since glibc rounds seeks down to multiples of the buffer's size, the alignment of
// the tensors in the stream: a seek to a tensor must arrive as one. The padding costs nothing, it is stored nowhere.
constexpr uint32_t buffer_bytes = 1 << 20;

// A tensor's bytes in the stream.
struct Range {
    uint64_t   begin     = 0; // in the stream
    bool       is_expert = false;
    FileExtent source;

    uint64_t end() const { return begin + source.n_bytes; }
};

struct ReadFailure {
    uint32_t file_idx = 0;
    uint64_t offset   = 0;
    int      os_errno = 0; // 0: the file ended
};

struct Layout {
    std::vector<char>  header;
    std::vector<Range> ranges; // by `begin`, which is the header's end for the first; padding lies between them
    uint64_t           n_bytes = 0;

    // REQUIRES: header.size() <= position < n_bytes.
    const Range & range_at(uint64_t position) const { return *std::prev(next_range(position)); }
    uint64_t      next_begin(uint64_t position) const {
        const auto next = next_range(position);
        return next == ranges.end() ? n_bytes : next->begin;
    }

  private:
    std::vector<Range>::const_iterator next_range(uint64_t position) const {
        return std::upper_bound(ranges.begin(), ranges.end(), position,
                                [](uint64_t pos, const Range & range) { return pos < range.begin; });
    }
};

struct GgufFree {
    void operator()(gguf_context * context) const { gguf_free(context); }
};
struct GgmlFree {
    void operator()(ggml_context * context) const { ggml_free(context); }
};

using GgufPtr = std::unique_ptr<gguf_context, GgufFree>;

std::vector<char> serialize(const gguf_context * gguf) {
    std::vector<char> bytes(gguf_get_meta_size(gguf));
    gguf_get_meta_data(gguf, bytes.data());
    return bytes;
}

// ggml takes a context's alignment from the file it parses; setting the key does not change it.
GgufPtr make_gguf_of_alignment(uint32_t alignment) {
    const GgufPtr seed(gguf_init_empty());
    gguf_set_val_u32(seed.get(), GGUF_KEY_GENERAL_ALIGNMENT, alignment);
    const std::vector<char> bytes = serialize(seed.get());
    GgufPtr                 gguf(gguf_init_from_buffer(bytes.data(), bytes.size(), {/*no_alloc =*/true, nullptr}));
    if (!gguf) {
        throw std::bad_alloc();
    }
    return gguf;
}

Layout make_layout(const GgufModel & model, const ExpertStore & experts) {
    std::unordered_set<std::string> expert_names;
    for (const ExpertLayer & layer : experts.layers()) {
        for (const ExpertMatrix & matrix : layer.matrices) {
            expert_names.insert(matrix.tensor_name);
        }
    }

    const GgufPtr gguf = make_gguf_of_alignment(buffer_bytes);
    gguf_set_kv(gguf.get(), model.metadata());
    gguf_set_val_u32(gguf.get(), GGUF_KEY_GENERAL_ALIGNMENT, buffer_bytes); // the model may have another
    for (const char * key : {"split.no", "split.count", "split.tensors.count"}) {
        gguf_remove_key(gguf.get(), key); // the stream is one file
    }
    const std::unique_ptr<ggml_context, GgmlFree> ggml(
        ggml_init({model.tensors().size() * ggml_tensor_overhead(), nullptr, /*no_alloc =*/true}));
    if (!ggml) {
        throw std::bad_alloc();
    }
    for (const TensorInfo & info : model.tensors()) {
        ggml_tensor * tensor = ggml_new_tensor(ggml.get(), info.type, GGML_MAX_DIMS, info.ne.data());
        ggml_set_name(tensor, info.name.c_str());
        gguf_add_tensor(gguf.get(), tensor);
    }

    Layout layout;
    layout.header  = serialize(gguf.get());
    layout.n_bytes = layout.header.size();
    for (size_t i = 0; i < model.tensors().size(); ++i) {
        const TensorInfo & info  = model.tensors()[i];
        const uint64_t     begin = layout.header.size() + gguf_get_tensor_offset(gguf.get(), static_cast<int64_t>(i));
        layout.ranges.push_back({begin, expert_names.count(info.name) != 0, info.extent});
        layout.n_bytes = align_up(layout.ranges.back().end(), buffer_bytes);
    }
    return layout;
}

} // namespace

struct DenseStream::Impl {
    Impl(const GgufModel & model, const ExpertStore & experts)
        : paths(model.paths()), layout(make_layout(model, experts)), buffer(buffer_bytes) {
        for (const std::string & path : paths) {
            files.push_back(open_file(path));
        }
    }

    // Called through C code: nothing here may throw.
    int64_t read(char * dst, uint64_t n) noexcept;     // bytes read, 0 at the end; -1: failed, errno is set
    int64_t seek(int64_t offset, int whence) noexcept; // the new position; -1: failed, errno is set
    int64_t read_file(char * dst, FileExtent source) noexcept;

    FILE * open_stream();

    std::vector<std::string>         paths;
    Layout                           layout;
    std::vector<OpenFile>            files;
    uint64_t                         position = 0; // at most layout.n_bytes
    std::optional<ReadFailure>       failure;
    std::atomic<uint64_t>            read_bytes{0};
    std::vector<char>                buffer; // of `stream`
    std::unique_ptr<FILE, FileClose> stream; // last: closed while the rest still lives
};

// Stops at the end of a tensor, so that a buffer's worth of padding is not filled in behind each small one.
int64_t DenseStream::Impl::read(char * dst, uint64_t n) noexcept {
    n = std::min(n, layout.n_bytes - position);
    if (n == 0) {
        return 0;
    }
    if (position < layout.header.size()) {
        n = std::min(n, layout.header.size() - position);
        std::memcpy(dst, layout.header.data() + position, n);
        position += n;
        return static_cast<int64_t>(n);
    }
    const Range & range = layout.range_at(position);
    if (!range.is_expert && position < range.end()) {
        n                       = std::min(n, range.end() - position);
        const FileExtent source = {range.source.file_idx, range.source.offset + (position - range.begin), n};
        const int64_t    n_read = read_file(dst, source);
        position += static_cast<uint64_t>(std::max<int64_t>(n_read, 0));
        return n_read;
    }
    n = std::min(n, layout.next_begin(position) - position);
    std::memset(dst, 0, n);
    position += n;
    return static_cast<int64_t>(n);
}

int64_t DenseStream::Impl::read_file(char * dst, FileExtent source) noexcept {
    const int fd   = ::fileno(files[source.file_idx].file.get());
    uint64_t  done = 0;
    while (done < source.n_bytes) {
        const ssize_t n = ::pread(fd, dst + done, source.n_bytes - done, static_cast<off_t>(source.offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            if (!failure) {
                failure = ReadFailure{source.file_idx, source.offset + done, n < 0 ? errno : 0};
            }
            errno = EIO;
            return -1;
        }
        done += static_cast<uint64_t>(n);
        read_bytes.fetch_add(static_cast<uint64_t>(n), std::memory_order_relaxed);
    }
    return static_cast<int64_t>(done);
}

int64_t DenseStream::Impl::seek(int64_t offset, int whence) noexcept {
    const auto n_bytes = static_cast<int64_t>(layout.n_bytes);
    int64_t    base    = 0;
    if (whence == SEEK_CUR) {
        base = static_cast<int64_t>(position);
        if (offset == 0) {
            return base; // ftell: must move nothing
        }
    } else if (whence == SEEK_END) {
        base = n_bytes;
    } else if (whence != SEEK_SET) {
        errno = EINVAL;
        return -1;
    }
    if (offset < -base) {
        errno = EINVAL;
        return -1;
    }
    // Compared before it is added: the sum may overflow.
    position = offset > n_bytes - base ? layout.n_bytes : static_cast<uint64_t>(base + offset);
    if (position >= layout.header.size() && position < layout.n_bytes && layout.range_at(position).is_expert) {
        position = layout.n_bytes;
    }
    return static_cast<int64_t>(position);
}

FILE * DenseStream::Impl::open_stream() {
#if defined(__APPLE__)
    const auto read_fn = [](void * cookie, char * dst, int n) -> int {
        return static_cast<int>(static_cast<Impl *>(cookie)->read(dst, static_cast<uint64_t>(n)));
    };
    const auto seek_fn = [](void * cookie, fpos_t offset, int whence) -> fpos_t {
        return static_cast<Impl *>(cookie)->seek(offset, whence);
    };
    return ::funopen(this, read_fn, nullptr, seek_fn, nullptr);
#else
    cookie_io_functions_t functions = {};
    functions.read                  = [](void * cookie, char * dst, size_t n) -> ssize_t {
        return static_cast<Impl *>(cookie)->read(dst, n);
    };
    functions.seek = [](void * cookie, off64_t * offset, int whence) -> int {
        *offset = static_cast<Impl *>(cookie)->seek(*offset, whence);
        return *offset < 0 ? -1 : 0;
    };
    return ::fopencookie(this, "rb", functions);
#endif
}

DenseStream::DenseStream(const GgufModel & model, const ExpertStore & experts)
    : impl_(std::make_unique<Impl>(model, experts)) {
    impl_->stream.reset(impl_->open_stream());
    if (!impl_->stream || std::setvbuf(impl_->stream.get(), impl_->buffer.data(), _IOFBF, buffer_bytes) != 0) {
        throw StoreError("'" + model.paths().front() +
                         "' cannot be shown to llama.cpp as a stream: " + std::strerror(errno) + ".");
    }
}

DenseStream::~DenseStream() = default;

FILE * DenseStream::file() { return impl_->stream.get(); }

std::string DenseStream::error() const {
    if (!impl_->failure) {
        return "";
    }
    const ReadFailure & failure = *impl_->failure;
    const std::string   cause =
        failure.os_errno == 0 ? "it ends there, shorter than when it was opened" : std::strerror(failure.os_errno);
    return "'" + impl_->paths[failure.file_idx] + "' cannot be read at offset " + std::to_string(failure.offset) +
           ": " + cause + ".";
}

uint64_t DenseStream::read_bytes() const { return impl_->read_bytes.load(std::memory_order_relaxed); }

} // namespace hobbit
