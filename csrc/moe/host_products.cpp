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
    // The thread that copies spins while it waits for the device: sharing its core would delay all the others.
    n_threads -= n_threads > 2 ? 1 : 0;
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(host_.get()));
    if (auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
            ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"))) {
        set(host_.get(), n_threads);
    }
}

void HostProducts::begin(const ExpertNode & node, const ggml_tensor * input, const DeviceReads & reads) {
    if (n_mirrors_ == mirrors_.size()) {
        mirrors_.emplace_back();
    }
    Mirror & mirror = mirrors_[n_mirrors_++];
    mirror.original = node.node;
    mirror.source   = input;
    mirror.key_idxs.clear();
    mirror.output_data.resize(ggml_nbytes(node.node));
    mirror.input_data.resize(ggml_nbytes(input));

    // Two nodes of a layer often read the same input.
    const Mirror * same = nullptr;
    for (size_t i = 0; i + 1 < n_mirrors_; i++) {
        same = mirrors_[i].source->data == input->data ? &mirrors_[i] : same;
    }
    if (same != nullptr && same->input_data.size() == mirror.input_data.size()) {
        mirror.input_data = same->input_data;
    } else {
        reads.read(input, mirror.input_data.data(), mirror.input_data.size());
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
        const uint64_t n_bytes = weights.layouts().of(weights.key(i)).parts[node.part_idx].n_bytes;
        added_.add(weights.key(i).precision, n_bytes, step.n_rows(i));
    }
    return matmul_.add_rows(graph_, mirror.node, view, step, weights, key_idxs);
}

Status HostProducts::compute() {
    using Clock          = std::chrono::steady_clock;
    const auto   started = Clock::now();
    const Status status  = graph_.compute();
    work_                = std::exchange(added_, {});
    work_.duration_us    = std::chrono::duration<double, std::micro>(Clock::now() - started).count();
    return status;
}

void HostProducts::send(const LayerStep & step) {
    for (size_t i = 0; i < n_mirrors_; i++) {
        send_rows(mirrors_[i], step);
        mirrors_[i].key_idxs.clear();
    }
}

// Neighbours go in one piece.
void HostProducts::send_rows(const Mirror & mirror, const LayerStep & step) {
    rows_.clear();
    for (uint32_t key_idx : mirror.key_idxs) {
        rows_.insert(rows_.end(), step.rows(key_idx), step.rows(key_idx) + step.n_rows(key_idx));
    }
    std::sort(rows_.begin(), rows_.end());
    const size_t row_bytes = mirror.output.nb[1];
    for (size_t first = 0, end = 0; first < rows_.size(); first = end) {
        for (end = first + 1; end < rows_.size() && rows_[end] == rows_[end - 1] + 1; end++) {
        }
        const size_t offset = rows_[first] * row_bytes;
        ggml_backend_tensor_set_async(device_, mirror.original, mirror.output_data.data() + offset, offset,
                                      (end - first) * row_bytes);
    }
}

void HostProducts::clear() {
    graph_.clear();
    n_mirrors_ = 0;
    added_     = {};
}

} // namespace hobbit
