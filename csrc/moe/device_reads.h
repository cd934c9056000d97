// What the host reads of a run's results, brought in one go behind the run: by itself each read waits for the device
// once more.
#pragma once

#include "moe/inner_graph.h"

#include <vector>

namespace hobbit {

class DeviceReads {
  public:
    explicit DeviceReads(ggml_backend_t backend) : backend_(backend) {}

    // A new run. What was brought before is forgotten.
    void clear() {
        wanted_.clear();
        n_bytes_ = 0;
    }
    // Wants a tensor with the run. Nothing happens where the device has no memory for that on the host, as the CPU.
    void want(const ggml_tensor * tensor);
    // Begins to bring what is wanted, behind what the device was given. It is there once the device was waited for.
    void begin();

    // The first n_bytes of a tensor: as they were brought if this very tensor was wanted, else the device is asked.
    void read(const ggml_tensor * tensor, void * data, size_t n_bytes) const;

  private:
    struct Wanted {
        const ggml_tensor * tensor = nullptr;
        size_t              offset = 0;
    };

    ggml_backend_t      backend_;
    GgmlBufferPtr       buffer_; // pinned
    bool                is_made_ = false;
    std::vector<Wanted> wanted_;
    size_t              n_bytes_ = 0;
};

} // namespace hobbit
