#include "moe/kernel_nodes.h"

#include <algorithm>

namespace hobbit {

namespace {

using kernels::block_weights;
using kernels::InputBlock;
using kernels::MmvqKernel;
using kernels::RowKernel;

// A thread takes this share of the weights that come to it, at a time: whole pieces of memory, and the last thread is
// done soon after the others also where a core was busy with reads.
constexpr int64_t pieces_per_thread = 8;

const int32_t * values_of(const ggml_tensor * t) { return static_cast<const int32_t *>(t->data); }

// What the nodes below want of either kind of kernel.
int64_t input_weights(const RowKernel & /*kernel*/) { return block_weights; }
int64_t input_weights(const MmvqKernel & kernel) { return kernel.input_weights; }
size_t  input_bytes(const RowKernel & /*kernel*/) { return sizeof(InputBlock); }
size_t  input_bytes(const MmvqKernel & kernel) { return kernel.input_bytes; }

void make_input(const RowKernel & kernel, const char * source, char * input) {
    kernel.quantize(reinterpret_cast<const float *>(source), block_weights, reinterpret_cast<InputBlock *>(input));
}

void make_input(const MmvqKernel & kernel, const char * source, char * input) {
    kernel.arrange(source, kernel.input_weights, input);
}

void multiply_rows(const RowKernel & kernel, const char * weights, int64_t n_in, int64_t n_rows, const char * inputs,
                   float * outputs) {
    kernel.multiply(weights, n_in, n_rows, reinterpret_cast<const InputBlock *>(inputs), outputs);
}

void multiply_rows(const MmvqKernel & kernel, const char * weights, int64_t n_in, int64_t n_rows, const char * inputs,
                   float * outputs) {
    kernel.multiply(weights, n_in, n_rows, inputs, outputs);
}

// dst: blocks [n_inputs][n_in / input_weights]. src: inputs, input_idxs.
template <typename Kernel> void make_inputs(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto &        kernel = *static_cast<const Kernel *>(userdata);
    const ggml_tensor * inputs = dst->src[0];
    const ggml_tensor * idxs   = dst->src[1];
    auto *              blocks = static_cast<char *>(dst->data);
    const int64_t       n_each = inputs->ne[0] / input_weights(kernel);
    const int64_t       n_all  = idxs->ne[0] * n_each;
    const size_t        source = ggml_row_size(inputs->type, input_weights(kernel));
    for (int64_t i = n_all * ith / nth; i < n_all * (ith + 1) / nth; ++i) {
        const char * row =
            static_cast<const char *>(inputs->data) + static_cast<size_t>(values_of(idxs)[i / n_each]) * inputs->nb[1];
        make_input(kernel, row + static_cast<size_t>(i % n_each) * source,
                   blocks + static_cast<size_t>(i) * input_bytes(kernel));
    }
}

// dst: outputs. src: weights, blocks, input_idxs, slot_idxs, row_idxs, the next piece.
template <typename Kernel> void multiply(ggml_tensor * dst, int /*ith*/, int nth, void * userdata) {
    const auto &        kernel    = *static_cast<const Kernel *>(userdata);
    const ggml_tensor * weights   = dst->src[0];
    const auto *        blocks    = static_cast<const char *>(dst->src[1]->data);
    const bool          is_shared = dst->src[2]->ne[0] == 1;
    const int32_t *     slot_idxs = values_of(dst->src[3]);
    const int32_t *     row_idxs  = values_of(dst->src[4]);
    auto *              next      = static_cast<int32_t *>(dst->src[5]->data);

    const int64_t n_in = weights->ne[0], n_out = weights->ne[1], n_rows = dst->src[3]->ne[0];
    const int64_t piece           = std::clamp((n_out * n_rows / (nth * pieces_per_thread) + 15) / 16 * 16, int64_t{16},
                                               std::max(n_out, int64_t{16}));
    const int64_t n_each          = (n_out + piece - 1) / piece;
    const size_t  row_input_bytes = static_cast<size_t>(n_in / input_weights(kernel)) * input_bytes(kernel);
    for (int32_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < n_each * n_rows;) {
        const int64_t row   = i / n_each;
        const int64_t first = i % n_each * piece;
        const char *  from  = static_cast<const char *>(weights->data) +
                              static_cast<size_t>(slot_idxs[row]) * weights->nb[2] +
                              static_cast<size_t>(first) * weights->nb[1];
        char *        to    = static_cast<char *>(dst->data) + static_cast<size_t>(row_idxs[row]) * dst->nb[1];
        multiply_rows(kernel, from, n_in, std::min(piece, n_out - first),
                      blocks + static_cast<size_t>(is_shared ? 0 : row) * row_input_bytes,
                      reinterpret_cast<float *>(to) + first);
    }
}

} // namespace

const RowKernel * kernel_for(ggml_backend_t backend, ggml_type type, int64_t n_in) {
    if (ggml_backend_dev_type(ggml_backend_get_device(backend)) != GGML_BACKEND_DEVICE_TYPE_CPU ||
        n_in % block_weights != 0) {
        return nullptr;
    }
    switch (type) {
    case GGML_TYPE_Q2_K:
        return kernels::q2_k_kernel();
    case GGML_TYPE_Q3_K:
        return kernels::q3_k_kernel();
    case GGML_TYPE_IQ4_XS:
        return kernels::iq4_xs_kernel();
    default:
        return nullptr;
    }
}

const MmvqKernel * mmvq_kernel_for(ggml_type type, int64_t n_in) {
    const MmvqKernel * kernel = nullptr;
    switch (type) {
    case GGML_TYPE_Q8_0:
        kernel = kernels::mmvq_q8_0_kernel();
        break;
    case GGML_TYPE_Q4_K:
        kernel = kernels::mmvq_q4_k_kernel();
        break;
    case GGML_TYPE_Q5_K:
        kernel = kernels::mmvq_q5_k_kernel();
        break;
    case GGML_TYPE_Q6_K:
        kernel = kernels::mmvq_q6_k_kernel();
        break;
    default:
        break;
    }
    return kernel != nullptr && n_in % kernel->input_weights == 0 ? kernel : nullptr;
}

template <typename Kernel>
void add_kernel_product(InnerGraph & graph, const Kernel & kernel, ggml_tensor * weights, ggml_tensor * inputs,
                        ggml_tensor * outputs, const KernelRows & rows, ggml_backend_buffer_t scratch_buffer,
                        char * scratch) {
    ggml_context * ctx        = graph.context();
    const auto     n_rows     = static_cast<int64_t>(rows.slot_idxs.size());
    const auto     n_inputs   = static_cast<int64_t>(rows.input_idxs.size());
    void *         userdata   = const_cast<Kernel *>(&kernel); // read only
    ggml_tensor *  input_idxs = graph.indices(rows.input_idxs.data(), n_inputs);

    ggml_tensor * inputs_src[] = {inputs, input_idxs};
    const int64_t n_blocks     = n_inputs * (inputs->ne[0] / input_weights(kernel));
    ggml_tensor * blocks = ggml_custom_4d(ctx, GGML_TYPE_I8, n_blocks * static_cast<int64_t>(input_bytes(kernel)), 1, 1,
                                          1, inputs_src, 2, make_inputs<Kernel>, GGML_N_TASKS_MAX, userdata);
    blocks->buffer       = scratch_buffer;
    blocks->data         = scratch;
    graph.add_made(blocks);

    const int32_t first_piece    = 0;
    ggml_tensor * multiply_src[] = {weights,
                                    blocks,
                                    input_idxs,
                                    graph.indices(rows.slot_idxs.data(), n_rows),
                                    graph.indices(rows.row_idxs.data(), n_rows),
                                    graph.indices(&first_piece, 1)};
    ggml_tensor * product = ggml_custom_4d(ctx, GGML_TYPE_F32, outputs->ne[0], outputs->ne[1], 1, 1, multiply_src, 6,
                                           multiply<Kernel>, GGML_N_TASKS_MAX, userdata);
    product->buffer       = outputs->buffer;
    product->data         = outputs->data;
    graph.add_made(product);
}

template void add_kernel_product(InnerGraph &, const RowKernel &, ggml_tensor *, ggml_tensor *, ggml_tensor *,
                                 const KernelRows &, ggml_backend_buffer_t, char *);
template void add_kernel_product(InnerGraph &, const MmvqKernel &, ggml_tensor *, ggml_tensor *, ggml_tensor *,
                                 const KernelRows &, ggml_backend_buffer_t, char *);

} // namespace hobbit
