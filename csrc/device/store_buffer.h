// The buffer type that llama.cpp is told to put expert tensors into. Its buffers are reserved, inaccessible address
// space: nothing is ever stored there, the experts stay in the model's file until the loader brings them in.
#pragma once

#include "ggml-backend-impl.h"
#include "moe/model_experts.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

namespace hobbit {

// One for each model. Must outlive the llama_model that was loaded with it.
class StoreBufferType {
  public:
    // Reads bytes of an expert tensor from the model's file. Only for a graph that uses one otherwise than in
    // MUL_MAT_ID: the scheduler then copies the tensor to a device that can, which is slow and right.
    using ReadTensor =
        std::function<Status(const std::string & tensor_name, uint64_t offset, std::byte * dst, uint64_t n_bytes)>;

    // `tensors` maps names of expert tensors to what is attached to them.
    StoreBufferType(ggml_backend_dev_t device, std::unordered_map<std::string, ExpertTensor> tensors, ReadTensor read);

    ggml_backend_buffer_type_t get() { return &type_; }
    static bool                owns(ggml_backend_buffer_t buffer);

    // While llama.cpp loads the model its buffers pass for host memory, into which the loader reads directly (and the
    // stream makes that read empty); others it would fill from a temporary buffer as large as the tensor. Afterwards
    // they do not: whoever wants the bytes must come through the buffer's functions.
    void set_loading(bool loading) { loading_ = loading; }
    bool is_loading() const { return loading_; }

    ExpertTensor * find(const std::string & tensor_name);
    Status         read(const std::string & tensor_name, uint64_t offset, std::byte * dst, uint64_t n_bytes) const;

  private:
    ggml_backend_buffer_type                      type_;
    std::unordered_map<std::string, ExpertTensor> tensors_;
    ReadTensor                                    read_;
    std::atomic<bool>                             loading_{false};
};

} // namespace hobbit
