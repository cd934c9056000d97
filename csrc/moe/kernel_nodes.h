// Products by our own kernels (csrc/kernels) as nodes of the inner device's graph.
#pragma once

#include "kernels/mmvq.h"
#include "kernels/row_kernel.h"
#include "moe/inner_graph.h"

#include <cstdint>
#include <vector>

namespace hobbit {

// Rows of one product: outputs[row_idxs[i]] = weights[slot_idxs[i]] * inputs[input_idxs[i]].
struct KernelRows {
    const std::vector<int32_t> & slot_idxs;  // [n]
    const std::vector<int32_t> & row_idxs;   // [n]
    const std::vector<int32_t> & input_idxs; // [n], or [1]: the same for all
};

// The kernel for weights of a type on this device; nullptr: the device multiplies itself.
const kernels::RowKernel * kernel_for(ggml_backend_t backend, ggml_type type, int64_t n_in);

// The kernel that rounds products of one token with this type as a CUDA device does; nullptr: there is none.
const kernels::MmvqKernel * mmvq_kernel_for(ggml_type type, int64_t n_in);

constexpr int     kernel_product_tensors      = 8;
constexpr int64_t kernel_product_extra_values = 16; // besides three indices for every row

// weights [n_in, n_out, n_slots], inputs [n_in, any] in floats for a RowKernel and in Q8_0 for a MmvqKernel, and
// outputs [n_out, any] in floats; `scratch` has room for the blocks of all inputs, aligned to 64. REQUIRES: room in
// `graph`.
template <typename Kernel>
void add_kernel_product(InnerGraph & graph, const Kernel & kernel, ggml_tensor * weights, ggml_tensor * inputs,
                        ggml_tensor * outputs, const KernelRows & rows, ggml_backend_buffer_t scratch_buffer,
                        char * scratch);

} // namespace hobbit
