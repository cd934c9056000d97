// One layer for a batch on a device with memory of its own, bit-identical to llama.cpp: its own nodes with its own ids,
// over the staging area, slots that are borrowed, into which all experts that the batch selected are brought
// (tier/staging.h). The host multiplies by none: it rounds otherwise.
//
// Resident experts are copied within the device, the others from the host, matrix by matrix in the order of use. A
// matrix's places are free for the next layer once the product with it was computed, so while the last matrices of a
// layer arrive the first ones of the next are already on the way.
#pragma once

#include "moe/ahead_copies.h"
#include "moe/device_weights.h"
#include "moe/inner_graph.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "moe/promotions.h"
#include "moe/staged_copies.h"
#include "tier/staging.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

class StagedLayer {
  public:
    explicit StagedLayer(ggml_backend_t device) : device_(device) {}

    // Whether a batch is one that rounds by the size of the whole product. Where it is not, no layer is staged.
    static bool takes_batch(const ModelExperts & model, uint32_t n_tokens);
    // Whether the layer is one for this class: such a batch, slots to borrow, and the host has no part in it. REQUIRES:
    // step.select().
    static bool takes(const LayerView & view, const LayerStep & step);

    // Begins to bring what the batch selected. Waits for other contexts' passes once a pass, and for those that use the
    // slots. REQUIRES: takes(); what was given to the device before was computed; nothing is held of other layers, and
    // no buffers: end() of the step before.
    void begin(const LayerView & view, LayerStep & step);
    // Lets go of the layer. REQUIRES: what was added was computed.
    void end();
    // Lets go of what was begun for a next layer, which is not for this class: of a prompt the last layer often
    // computes one token alone. The link is needed for that now.
    void drop_ahead() { ahead_.drop(); }
    // Lets go of that and of the area, whose slots stay lent until a pass needs them (DeviceTier::take_back).
    void end_pass();

    // Adds the layer's nodes, up to `view.end_idx`; the last ones are left to the next compute().
    Status run(ggml_cgraph * graph, int first_idx, InnerGraph & inner);

  private:
    void   stage_resident();
    void   pump();
    bool   is_due(const ExpertNode & other, const ExpertNode & node) const;
    Status bring(const ExpertNode & node, InnerGraph & inner);

    ggml_backend_t            device_;
    const LayerView *         view_ = nullptr;
    LayerStep *               step_ = nullptr;
    std::unique_ptr<Staging>  staging_; // of the pass
    AheadCopies               ahead_{AheadCopies::Target::staging};
    std::unique_ptr<TierStep> tier_step_;
    StagedCopies              copies_;
    Promotions                promotions_;
    std::vector<uint32_t>     missing_;    // key indices
    std::vector<int32_t>      lease_idxs_; // [key] of what is loaded; -1: on the device
    std::vector<uint32_t>     added_;      // parts whose products were added and not computed yet
};

} // namespace hobbit
