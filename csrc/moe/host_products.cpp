#include "moe/host_products.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <new>
#include <utility>

namespace hobbit {

namespace {

alignas(64) std::byte buffer_anchor[64];

GgmlBackendPtr make_host_backend() {
    GgmlBackendPtr backend(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    if (!backend) {
        throw std::bad_alloc();
    }
    return backend;
}

} // namespace

HostProducts::HostProducts(ggml_backend_t device)
    : device_(device), host_(make_host_backend()),
      buffer_(ggml_backend_cpu_buffer_from_ptr(buffer_anchor, sizeof(buffer_anchor))), graph_(host_.get()),
      matmul_(host_.get()) {}

void HostProducts::set_n_threads(int n_threads) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(host_.get()));
    if (auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
            ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"))) {
        set(host_.get(), n_threads);
    }
}

void HostProducts::begin(const ExpertNode & node) {
    if (n_mirrors_ == mirrors_.size()) {
        mirrors_.emplace_back();
    }
    Mirror &            mirror = mirrors_[n_mirrors_++];
    const ggml_tensor * input  = node.node->src[1];
    mirror.original            = node.node;
    mirror.key_idxs.clear();
    mirror.output_data.resize(ggml_nbytes(node.node));
    mirror.input_data.resize(ggml_nbytes(input));

    // Two nodes of a layer often read the same input.
    const Mirror * same = nullptr;
    for (size_t i = 0; i + 1 < n_mirrors_; i++) {
        same = mirrors_[i].original->src[1]->data == input->data ? &mirrors_[i] : same;
    }
    if (same != nullptr && same->input_data.size() == mirror.input_data.size()) {
        mirror.input_data = same->input_data;
    } else {
        ggml_backend_tensor_get(input, mirror.input_data.data(), 0, mirror.input_data.size());
    }
    mirror.input           = *input;
    mirror.input.buffer    = buffer_.get();
    mirror.input.data      = mirror.input_data.data();
    mirror.output          = *node.node;
    mirror.output.buffer   = buffer_.get();
    mirror.output.data     = mirror.output_data.data();
    mirror.output.src[1]   = &mirror.input;
    mirror.node            = node;
    mirror.node.node       = &mirror.output;
    mirror.input.view_src  = nullptr;
    mirror.output.view_src = nullptr;
}

HostProducts::Mirror & HostProducts::mirror_of(const ExpertNode & node) {
    const auto found = std::find_if(mirrors_.begin(), mirrors_.begin() + static_cast<std::ptrdiff_t>(n_mirrors_),
                                    [&](const Mirror & m) { return m.original == node.node; });
    assert(found != mirrors_.begin() + static_cast<std::ptrdiff_t>(n_mirrors_));
    return *found;
}

Status HostProducts::add(const ExpertNode & node, const LayerView & view, const LayerStep & step,
                         const LoadedWeights & weights, const std::vector<uint32_t> & key_idxs) {
    Mirror & mirror = mirror_of(node);
    for (uint32_t i : key_idxs) {
        mirror.key_idxs.push_back(i);
        added_bytes_ += weights.layouts().of(weights.key(i)).parts[node.part_idx].n_bytes;
        added_rows_ = std::max(added_rows_, step.n_rows(i));
        added_parts_++;
    }
    return matmul_.add_rows(graph_, mirror.node, view, step, weights, key_idxs);
}

Status HostProducts::compute(const LayerStep & step) {
    using Clock          = std::chrono::steady_clock;
    const auto   started = Clock::now();
    const Status status  = graph_.compute();
    duration_us_         = std::chrono::duration<double, std::micro>(Clock::now() - started).count();
    n_bytes_             = std::exchange(added_bytes_, 0);
    n_rows_              = std::exchange(added_rows_, 0);
    n_parts_             = std::exchange(added_parts_, 0);
    for (size_t i = 0; i < n_mirrors_; i++) {
        for (uint32_t key_idx : mirrors_[i].key_idxs) {
            send_rows(mirrors_[i], step, key_idx);
        }
        mirrors_[i].key_idxs.clear();
    }
    return status;
}

void HostProducts::send_rows(const Mirror & mirror, const LayerStep & step, uint32_t key_idx) {
    const size_t row_bytes = mirror.output.nb[1];
    for (uint32_t i = 0; i < step.n_rows(key_idx); i++) {
        const size_t offset = step.rows(key_idx)[i] * row_bytes;
        ggml_backend_tensor_set_async(device_, mirror.original, mirror.output_data.data() + offset, offset, row_bytes);
    }
}

void HostProducts::clear() {
    graph_.clear();
    n_mirrors_   = 0;
    added_bytes_ = 0;
    added_rows_ = added_parts_ = 0;
}

} // namespace hobbit
