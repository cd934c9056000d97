// Memory on a ggml device for experts, in areas, and copies into it on a queue of their own.
//
// A second backend of the device stands for the queue: what it is given runs beside what the first one computes.
#pragma once

#include "ggml-backend.h"
#include "moe/expert_weights.h"
#include "moe/inner_graph.h"
#include "tier/device_memory.h"

#include <array>
#include <vector>

namespace hobbit {

struct GgmlEventFree {
    void operator()(ggml_backend_event * event) const { ggml_backend_event_free(event); }
};
using GgmlEventPtr = std::unique_ptr<ggml_backend_event, GgmlEventFree>;

class DeviceArena final : public DeviceMemory {
  public:
    // Throws std::bad_alloc if the device has not enough.
    DeviceArena(ggml_backend_dev_t device, const std::vector<uint64_t> & area_bytes);

    WeightArea area(uint32_t area_idx) const;

    // Copies within the device's memory, in the order of what `backend` is given to compute.
    void copy_within(ggml_backend_t backend, uint32_t from_area, uint64_t from_offset, uint32_t to_area,
                     uint64_t to_offset, uint64_t n_bytes);

    void copy(uint32_t area_idx, uint64_t offset, const std::byte * src, uint64_t n_bytes) override;
    void wait(uint32_t n_left) override;

  private:
    GgmlBackendPtr              backend_;
    std::vector<GgmlBufferPtr>  buffers_; // [area]; nullptr: of no bytes
    std::vector<ggml_tensor>    tensors_; // [area]; all its bytes
    std::array<GgmlEventPtr, 2> events_;  // recorded after copies in turn; nullptr: the device has none
    uint64_t                    n_begun_ = 0;
};

} // namespace hobbit
