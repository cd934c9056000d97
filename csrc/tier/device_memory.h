// Memory of a device that the host cannot address, and copies from the host into it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hobbit {

// Used by one thread, the copy queue's.
class DeviceMemory {
  public:
    virtual ~DeviceMemory() = default;

    // Begins a copy into an area of the device's memory; copies complete in the order in which they were begun. `src`
    // must stay as it is until then.
    virtual void copy(uint32_t area_idx, uint64_t offset, const std::byte * src, uint64_t n_bytes) = 0;

    // Waits until at most `n_left` of the copies that were begun are not complete; n_left is 0 or 1.
    virtual void wait(uint32_t n_left) = 0;
};

} // namespace hobbit
