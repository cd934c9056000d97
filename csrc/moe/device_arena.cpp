#include "moe/device_arena.h"

#include <new>

namespace hobbit {

DeviceArena::DeviceArena(ggml_backend_dev_t device, const std::vector<uint64_t> & area_bytes)
    : backend_(ggml_backend_dev_init(device, nullptr)) {
    if (!backend_) {
        throw std::bad_alloc();
    }
    for (const uint64_t n_bytes : area_bytes) {
        GgmlBufferPtr buffer(n_bytes > 0 ? ggml_backend_alloc_buffer(backend_.get(), n_bytes) : nullptr);
        if (n_bytes > 0 && !buffer) {
            throw std::bad_alloc();
        }
        ggml_tensor tensor{};
        if (buffer) {
            ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            // Kernels read past the last row up to a padded length. What is there counts nothing, unless it is a NaN.
            ggml_backend_buffer_clear(buffer.get(), 0);
            tensor = flat_tensor(GGML_TYPE_I8, n_bytes, buffer.get(), ggml_backend_buffer_get_base(buffer.get()));
        }
        buffers_.push_back(std::move(buffer));
        tensors_.push_back(tensor);
    }
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device, &props);
    for (GgmlEventPtr & event : events_) {
        event.reset(props.caps.events ? ggml_backend_event_new(device) : nullptr);
    }
}

WeightArea DeviceArena::area(uint32_t area_idx) const {
    return {buffers_[area_idx].get(), static_cast<std::byte *>(tensors_[area_idx].data)};
}

void DeviceArena::copy_within(ggml_backend_t backend, uint32_t from_area, uint64_t from_offset, uint32_t to_area,
                              uint64_t to_offset, uint64_t n_bytes) {
    const WeightArea  from = area(from_area), to = area(to_area);
    const ggml_tensor source = flat_tensor(GGML_TYPE_I8, n_bytes, from.buffer, from.data + from_offset);
    ggml_tensor       target = flat_tensor(GGML_TYPE_I8, n_bytes, to.buffer, to.data + to_offset);
    ggml_backend_tensor_copy_async(backend, backend, &source, &target);
}

void DeviceArena::copy(uint32_t area_idx, uint64_t offset, const std::byte * src, uint64_t n_bytes) {
    ggml_backend_tensor_set_async(backend_.get(), &tensors_[area_idx], src, offset, n_bytes);
    if (events_[0] && events_[1]) {
        ggml_backend_event_record(events_[n_begun_ % 2].get(), backend_.get());
    }
    n_begun_++;
}

void DeviceArena::wait(uint32_t n_left) {
    if (n_begun_ <= n_left) {
        return;
    }
    if (events_[0] && events_[1]) {
        ggml_backend_event_synchronize(events_[(n_begun_ - n_left - 1) % 2].get());
    } else {
        ggml_backend_synchronize(backend_.get());
    }
}

} // namespace hobbit
