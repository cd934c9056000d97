#include "device/store_buffer.h"

#include <cstring>
#include <sys/mman.h>
#include <utility>

namespace hobbit {

namespace {

constexpr size_t store_alignment = 64;

struct Reservation {
    void * base    = nullptr;
    size_t n_bytes = 0;
};

StoreBufferType & store_of(ggml_backend_buffer_t buffer) {
    return *static_cast<StoreBufferType *>(buffer->buft->context);
}

void buffer_free(ggml_backend_buffer_t buffer) {
    auto * r = static_cast<Reservation *>(buffer->context);
    munmap(r->base, r->n_bytes);
    delete r;
}

void * buffer_base(ggml_backend_buffer_t buffer) { return static_cast<Reservation *>(buffer->context)->base; }

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    if (tensor->view_src == nullptr) {
        tensor->extra = store_of(buffer).find(tensor->name);
    }
    return tensor->view_src != nullptr || tensor->extra != nullptr ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}

void buffer_get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset,
                       size_t size) {
    const ggml_tensor * base = tensor->view_src != nullptr ? tensor->view_src : tensor;
    const Status        status =
        store_of(buffer).read(base->name, tensor->view_offs + offset, static_cast<std::byte *>(data), size);
    if (!status.ok()) {
        GGML_ABORT("hobbit: %s", status.message().c_str()); // ggml has no way to report it from here
    }
}

void buffer_clear(ggml_backend_buffer_t, uint8_t) {}

const ggml_backend_buffer_i buffer_interface = {
    /* .free_buffer   = */ buffer_free,
    /* .get_base      = */ buffer_base,
    /* .init_tensor   = */ buffer_init_tensor,
    /* .memset_tensor = */ nullptr,
    /* .set_tensor    = */ buffer_set_tensor,
    /* .get_tensor    = */ buffer_get_tensor,
    /* .set_tensor_2d = */ nullptr,
    /* .get_tensor_2d = */ nullptr,
    /* .cpy_tensor    = */ nullptr,
    /* .clear         = */ buffer_clear,
    /* .reset         = */ nullptr,
};

const char * type_name(ggml_backend_buffer_type_t) { return "hobbit store"; }

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    const size_t n_bytes = size > 0 ? size : 1;
    void *       base    = mmap(nullptr, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    return ggml_backend_buffer_init(type, buffer_interface, new Reservation{base, n_bytes}, size);
}

bool type_is_host(ggml_backend_buffer_type_t type) {
    return static_cast<StoreBufferType *>(type->context)->is_loading();
}

size_t type_alignment(ggml_backend_buffer_type_t) { return store_alignment; }

const ggml_backend_buffer_type_i type_interface = {
    /* .get_name       = */ type_name,
    /* .alloc_buffer   = */ type_alloc,
    /* .get_alignment  = */ type_alignment,
    /* .get_max_size   = */ nullptr,
    /* .get_alloc_size = */ nullptr,
    /* .is_host        = */ type_is_host,
};

} // namespace

StoreBufferType::StoreBufferType(ggml_backend_dev_t device, std::unordered_map<std::string, ExpertTensor> tensors,
                                 ReadTensor read)
    : type_{type_interface, device, this}, tensors_(std::move(tensors)), read_(std::move(read)) {}

bool StoreBufferType::owns(ggml_backend_buffer_t buffer) { return buffer->buft->iface.get_name == type_name; }

ExpertTensor * StoreBufferType::find(const std::string & tensor_name) {
    const auto it = tensors_.find(tensor_name);
    return it == tensors_.end() ? nullptr : &it->second;
}

Status StoreBufferType::read(const std::string & tensor_name, uint64_t offset, std::byte * dst,
                             uint64_t n_bytes) const {
    return read_(tensor_name, offset, dst, n_bytes);
}

} // namespace hobbit
