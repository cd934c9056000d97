#include "moe/device_reads.h"

#include <cstring>

namespace hobbit {

namespace {

constexpr size_t buffer_bytes = 1 << 20; // a few rows; what is larger is no matter of one more wait
constexpr size_t align        = 64;

} // namespace

void DeviceReads::want(const ggml_tensor * tensor) {
    if (!is_made_) {
        is_made_                        = true;
        ggml_backend_buffer_type_t type = ggml_backend_dev_host_buffer_type(ggml_backend_get_device(backend_));
        buffer_.reset(type != nullptr ? ggml_backend_buft_alloc_buffer(type, buffer_bytes) : nullptr);
    }
    if (buffer_ == nullptr || !ggml_is_contiguous(tensor) || n_bytes_ + ggml_nbytes(tensor) > buffer_bytes) {
        return;
    }
    wanted_.push_back({tensor, n_bytes_});
    n_bytes_ += (ggml_nbytes(tensor) + align - 1) / align * align;
}

void DeviceReads::begin() {
    char * base = wanted_.empty() ? nullptr : static_cast<char *>(ggml_backend_buffer_get_base(buffer_.get()));
    for (const Wanted & wanted : wanted_) {
        ggml_backend_tensor_get_async(backend_, wanted.tensor, base + wanted.offset, 0, ggml_nbytes(wanted.tensor));
    }
}

void DeviceReads::read(const ggml_tensor * tensor, void * data, size_t n_bytes) const {
    for (const Wanted & wanted : wanted_) {
        if (wanted.tensor == tensor) {
            const char * base = static_cast<const char *>(ggml_backend_buffer_get_base(buffer_.get()));
            std::memcpy(data, base + wanted.offset, n_bytes);
            return;
        }
    }
    ggml_backend_tensor_get(tensor, data, 0, n_bytes);
}

} // namespace hobbit
