// A graph under construction for the inner device: nodes of llama.cpp's own graph and nodes that we make, in order.
#pragma once

#include "base/status.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace hobbit {

struct GgmlFree {
    void operator()(ggml_backend * backend) const { ggml_backend_free(backend); }
    void operator()(ggml_context * ctx) const { ggml_free(ctx); }
    void operator()(ggml_backend_buffer * buffer) const { ggml_backend_buffer_free(buffer); }
};
using GgmlContextPtr = std::unique_ptr<ggml_context, GgmlFree>;
using GgmlBackendPtr = std::unique_ptr<ggml_backend, GgmlFree>;
using GgmlBufferPtr  = std::unique_ptr<ggml_backend_buffer, GgmlFree>;

// Memory on the inner device that only ever grows.
class DeviceScratch {
  public:
    explicit DeviceScratch(ggml_backend_t backend) : backend_(backend) {}

    // At least n_bytes. Contents and earlier pointers are lost when it grows. False: out of memory.
    bool reserve(size_t n_bytes);

    ggml_backend_buffer_t buffer() const { return buffer_.get(); }
    char *                data() const { return static_cast<char *>(ggml_backend_buffer_get_base(buffer_.get())); }
    size_t                n_bytes() const { return n_bytes_; }

  private:
    ggml_backend_t backend_;
    GgmlBufferPtr  buffer_;
    size_t         n_bytes_ = 0;
};

// A tensor of n elements over memory that somebody else owns, outside of any context.
ggml_tensor flat_tensor(ggml_type type, size_t n, ggml_backend_buffer_t buffer, void * data);

class DeviceReads;

class InnerGraph {
  public:
    static constexpr int64_t max_indices = 1 << 17; // of a run

    explicit InnerGraph(ggml_backend_t backend);

    // Room for n_nodes nodes of llama.cpp's graph in one go. REQUIRES: empty().
    void reserve_nodes(int n_nodes);

    // Shows the device which results of llama.cpp's graph are used more than once, so that it may fuse nodes as it does
    // when it is given that graph itself. Holds until the next call; nullptr: nothing is fused.
    void set_parent(const ggml_cgraph * graph) { parent_ = graph; }

    // Runs from now on come again with every token, several of this layer and not all alike: each kind begins with a
    // node of its own. A device may know a run by its first node, and begins one that is as it was last time in one go
    // (CUDA graphs). -1: llama.cpp's own, which are as they are.
    void set_recurring(int32_t layer_idx) { recurring_layer_ = layer_idx; }
    // Runs from now on are cut wherever copies made them wait: all begin with one node, so that no device takes them
    // for such that come again and records them, which costs more than to begin them.
    void set_one_time() { recurring_layer_ = one_time; }

    // A node of llama.cpp's graph.
    void add(ggml_tensor * node);
    // A MUL_MAT_ID of llama.cpp's graph that multiplies by `weights` with `ids` instead of its own (nullptr: its own
    // ids), until it was given to the device. The node itself stays, so that the device sees it where llama.cpp put it.
    void add_over(ggml_tensor * node, ggml_tensor * weights, ggml_tensor * ids);
    // A node made in context(): the executor skips nodes without the compute flag.
    void add_made(ggml_tensor * node);

    // Where to make tensors; they live until the graph was computed.
    ggml_context * context() const { return tensors_.get(); }

    // A tensor over memory that somebody else owns.
    ggml_tensor * tensor_over(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, ggml_backend_buffer_t buffer,
                              void * data);

    // n indices on the device, as an I32 tensor [n]; they get there with the run. nullptr: out of memory.
    ggml_tensor * indices(const int32_t * values, int64_t n);
    // Ids of a MUL_MAT_ID, [n_used, n_tokens].
    ggml_tensor * ids(const std::vector<int32_t> & values, int64_t n_used, int64_t n_tokens);

    // Whether n more tensors, nodes and index values fit before compute() must be called.
    bool has_room(int n_tensors, int64_t n_indices) const;

    // Gives what was added to the device and starts empty again. Results are there after the next compute().
    Status submit();
    // Runs what was added, waits for it, for `reads` of it and for what was submitted, and starts empty again. Calls
    // `meanwhile` while the device computes.
    Status compute(DeviceReads * reads = nullptr, const std::function<void()> & meanwhile = {});
    // Forgets what was added and not computed.
    void clear();
    bool empty() const { return n_nodes_ == 0; }

  private:
    // What a node was before add_over().
    struct Replaced {
        ggml_tensor * node    = nullptr;
        ggml_tensor * weights = nullptr;
        ggml_tensor * ids     = nullptr;
    };

    // Layer, nodes, nodes that were made, where its indices begin and end.
    using Kind = std::array<int64_t, 5>;

    Status start();
    void   begin_with_mark(ggml_cgraph & run);

    static constexpr int     max_tensors = 2048;
    static constexpr int32_t one_time    = -2;

    ggml_backend_t backend_;
    GgmlContextPtr tensors_;
    GgmlContextPtr graph_context_;
    ggml_cgraph *  graph_      = nullptr;
    int            node_limit_ = 0;
    int            n_nodes_    = 0;
    int            n_made_     = 0; // of these, not llama.cpp's own
    int64_t        n_indices_  = 0;
    int64_t        first_idx_  = 0;     // of the indices of the run
    int64_t        n_sent_     = 0;     // indices that are on the device
    bool           submitted_  = false; // and not waited for
    DeviceScratch  index_scratch_;

    // [max_indices]. Sent at once: a small copy waits its turn behind those of experts.
    std::vector<int32_t>  index_values_;
    const ggml_cgraph *   parent_ = nullptr;
    std::vector<Replaced> replaced_;

    int32_t                                      recurring_layer_ = -1;
    std::map<Kind, std::unique_ptr<ggml_tensor>> marks_; // nodes that compute nothing
    std::vector<ggml_tensor *>                   marked_nodes_;
};

} // namespace hobbit
