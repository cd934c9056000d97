// One layer on a device with memory of its own: experts that are there at once; of the others, each matrix is copied
// for this one use or multiplied by on the host, whatever is done first (tier/step_plan.h).
#pragma once

#include "moe/ahead_copies.h"
#include "moe/device_weights.h"
#include "moe/host_products.h"
#include "moe/layer_copies.h"
#include "moe/promotions.h"
#include "moe/quantized_inputs.h"
#include "tier/step_plan.h"

#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace hobbit {

class TieredLayer {
  public:
    explicit TieredLayer(ggml_backend_t device) : device_(device), quants_(device) {}

    void set_n_threads(int n_threads);

    // To the run that ends at the layer's router: adds what the host will want of it beside its choice, and returns
    // that.
    const ggml_tensor * add_input(const LayerView & view, InnerGraph & inner);
    // Finds out what is missing and begins to bring it. REQUIRES: step.select(); end() of the step before.
    void begin(const LayerView & view, LayerStep & step);
    // Lets go of the layer. REQUIRES: what was added was computed.
    void end();
    // Lets go of what was begun for a next layer.
    void drop_ahead() { ahead_.drop(); }

    // Begins copies of what the next layer will probably want, best first, when the link has nothing else to do.
    // Returns what is neither on the device nor in the host's memory. REQUIRES: begin().
    std::vector<ExpertKey> expect(const std::vector<ExpertKey> & keys);

    // Whether the layer's nodes may join the run as they are.
    bool                  joins_run() const { return missing_.empty() && slot_ids_.empty(); }
    const DeviceWeights & weights() const { return *weights_; }

    // Adds the layer's nodes, up to `view.end_idx`; the last ones may be left to the next compute(). `meanwhile` is
    // called once, as early as nothing waits for it.
    Status run(ggml_cgraph * graph, int first_idx, InnerGraph & inner, ExpertMatmul & matmul, const DeviceReads & reads,
               const std::function<void()> & meanwhile);
    // Experts that were missing may get a slot now: what no token waits for. After run(), before end().
    void promote();

  private:
    struct HostShare { // of a node
        const ExpertNode *    node = nullptr;
        std::vector<uint32_t> ready; // key indices: loaded, and to be multiplied by next
    };

    void      plan();
    HostParts host_parts() const;
    void      pump();
    void      find_slot_ids();
    bool      can_be_parted() const;
    void      think_meanwhile();
    Status    add_node(const ExpertNode & node, InnerGraph & inner, ExpertMatmul & matmul);
    Status    complete_all(InnerGraph & inner, ExpertMatmul & matmul);
    void      find_host_shares();
    bool      rounds_as_device(const LayerView & view, const ExpertNode & node) const;
    bool      quantize_inputs(InnerGraph & inner);
    Status    compute_host();
    Status    submit_resident(InnerGraph & inner);
    Status    add_slots(const ExpertNode & node, const std::vector<int32_t> & slot_ids, InnerGraph & inner);
    Status    submit_whole(InnerGraph & inner, ExpertMatmul & matmul, bool has_resident);
    Status    add_lo_rows(const ExpertNode & node, uint32_t n_padded, InnerGraph & inner, ExpertMatmul & matmul);
    Status    multiply_ready();
    Status    compute_late(bool & any);
    Status    complete_rest(InnerGraph & inner, ExpertMatmul & matmul);
    Status    multiply_copies(InnerGraph & inner, ExpertMatmul & matmul);
    bool      reads_pending(const ggml_tensor * expert_node) const;
    Place     place_of(uint32_t key_idx, uint32_t part_idx) const;

    ggml_backend_t                device_;
    std::unique_ptr<HostProducts> host_; // made when it is first needed
    QuantizedInputs               quants_;
    int                           n_threads_ = GGML_DEFAULT_N_THREADS;

    const LayerView *               view_    = nullptr;
    LayerStep *                     step_    = nullptr;
    size_t                          n_parts_ = 0; // `view_` is of the next layer when promote() is called
    std::unique_ptr<TierStep>       tier_step_;
    std::optional<DeviceWeights>    weights_;
    std::optional<LoadedWeights>    loaded_;
    std::vector<uint32_t>           missing_;    // key indices
    std::vector<int32_t>            lease_idxs_; // [key] of what is loaded; -1: on the device
    StepPlan                        plan_;       // of missing_
    LayerCopies                     copies_;
    AheadCopies                     ahead_{AheadCopies::Target::one_use}; // of the next layer
    std::vector<int32_t>            slot_ids_; // [row] of whole products; empty: rows are gathered
    Precision                       whole_precision_ = Precision::hi;
    bool                            is_parted_       = false; // lo rows are a product of their own
    bool                            promotes_        = false; // promote() is due
    std::vector<int32_t>            ids_;
    std::vector<const ExpertNode *> pending_;                // nodes without their missing experts' rows
    bool                            inputs_computed_ = true; // of the pending nodes
    std::vector<HostShare>          host_shares_;
    std::function<void()>           meanwhile_;
    const DeviceReads *             reads_ = nullptr;
    std::vector<int32_t>            buffers_;      // [key]
    std::vector<int32_t>            used_buffers_; // to be given back
    Promotions                      promotions_;
    std::vector<uint32_t>           ready_, arrived_, part_idxs_, lo_rows_;
    std::vector<int32_t>            lo_slots_; // [lo row]
};

} // namespace hobbit
