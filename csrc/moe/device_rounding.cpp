#include "moe/device_rounding.h"

#include "ggml-alloc.h"
#include "moe/inner_graph.h"
#include "moe/kernel_nodes.h"

#include <cmath>
#include <random>
#include <vector>

namespace hobbit {

namespace {

constexpr int64_t n_rows = 16; // of each expert
constexpr int64_t n_used = 8;  // experts, each with an input of its own

// Many small values and a few large ones, as activations are, and other orders of magnitude from one input to the next.
std::vector<float> values(int64_t n_each, int64_t n, uint32_t seed) {
    std::minstd_rand                      random(seed);
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    std::vector<float>                    found(static_cast<size_t>(n_each * n));
    for (size_t i = 0; i < found.size(); ++i) {
        const float v = uniform(random);
        found[i]      = v * v * v * std::ldexp(1.0F, static_cast<int>(i / static_cast<size_t>(n_each) % n_used) - 4);
    }
    return found;
}

bool is_alike(ggml_backend_t device, const kernels::MmvqKernel & kernel, ggml_type type, int64_t n_in) {
    ggml_init_params params = {};
    params.mem_size         = ggml_tensor_overhead() * 16 + ggml_graph_overhead();
    params.no_alloc         = true;
    const GgmlContextPtr ctx(ggml_init(params));
    ggml_tensor *        weights = ggml_new_tensor_3d(ctx.get(), type, n_in, n_rows, n_used);
    ggml_tensor *        inputs  = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_in, n_used, 1);
    ggml_tensor *        ids     = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, n_used, 1);
    ggml_tensor *        quants  = ggml_cast(ctx.get(), inputs, GGML_TYPE_Q8_0);
    ggml_tensor *        product = ggml_mul_mat_id(ctx.get(), weights, inputs, ids);
    ggml_cgraph *        graph   = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, quants);
    ggml_build_forward_expand(graph, product);
    if (!ggml_backend_supports_op(device, quants) || !ggml_backend_supports_op(device, product)) {
        return false;
    }
    const GgmlBufferPtr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), device));
    if (!buffer) {
        return false;
    }

    std::vector<char>        weight_bytes(ggml_nbytes(weights));
    const std::vector<float> weight_values = values(n_in, n_rows * n_used, 1);
    ggml_quantize_chunk(type, weight_values.data(), weight_bytes.data(), 0, n_rows * n_used, n_in, nullptr);
    ggml_backend_tensor_set(weights, weight_bytes.data(), 0, weight_bytes.size());
    const std::vector<float> input_values = values(n_in, n_used, 2);
    ggml_backend_tensor_set(inputs, input_values.data(), 0, ggml_nbytes(inputs));
    const int32_t id_values[n_used] = {3, 0, 7, 5, 1, 6, 2, 4};
    ggml_backend_tensor_set(ids, id_values, 0, sizeof(id_values));
    if (ggml_backend_graph_compute(device, graph) != GGML_STATUS_SUCCESS) {
        return false;
    }

    std::vector<char> quant_bytes(ggml_nbytes(quants));
    ggml_backend_tensor_get(quants, quant_bytes.data(), 0, quant_bytes.size());
    std::vector<float> wanted(n_rows * n_used), found(n_rows);
    ggml_backend_tensor_get(product, wanted.data(), 0, ggml_nbytes(product));
    kernels::ArrangedInputs arranged(kernel, n_in);
    for (int64_t i = 0; i < n_used; ++i) {
        kernel.arrange(quant_bytes.data() + static_cast<size_t>(i) * quants->nb[1], n_in, arranged.data());
        kernel.multiply(weight_bytes.data() + static_cast<size_t>(id_values[i]) * weights->nb[2], n_in, n_rows,
                        arranged.data(), found.data());
        for (int64_t row = 0; row < n_rows; ++row) {
            if (found[static_cast<size_t>(row)] != wanted[static_cast<size_t>(i * n_rows + row)]) {
                return false;
            }
        }
    }
    return true;
}

} // namespace

DeviceRounding::DeviceRounding(const std::set<RowShape> & shapes, const IsAlike & is_alike) {
    for (const RowShape & shape : shapes) {
        const kernels::MmvqKernel * kernel = mmvq_kernel_for(shape.first, shape.second);
        if (kernel != nullptr && is_alike(*kernel, shape)) {
            alike_.insert(shape);
        }
    }
    is_for_all_ = !shapes.empty() && alike_.size() == shapes.size();
}

DeviceRounding DeviceRounding::tried(ggml_backend_dev_t device, const std::set<RowShape> & shapes) {
    GgmlBackendPtr backend;
    return {shapes, [&](const kernels::MmvqKernel & kernel, const RowShape & shape) {
                if (!backend) {
                    backend.reset(ggml_backend_dev_init(device, nullptr));
                }
                return backend && is_alike(backend.get(), kernel, shape.first, shape.second);
            }};
}

DeviceRounding DeviceRounding::assumed(const std::set<RowShape> & shapes) {
    return {shapes, [](const kernels::MmvqKernel &, const RowShape &) { return true; }};
}

} // namespace hobbit
