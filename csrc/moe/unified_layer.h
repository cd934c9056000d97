// One layer for a batch on a device that computes with the host's memory, bit-identical to llama.cpp: its own nodes
// with its own ids over all of the layer's experts in order. A kernel for many rows takes sums by the size of the whole
// product; as StagedLayer, for memory that is one.
//
// Where the loader has a slot for every expert they lie in order already, and only those that the batch selected are
// waited for. Else they are put together in the LayerArea: what is resident by the device, in one go, what comes from
// the drive by the host, matrix by matrix in the order of use. So while the last matrices come the first are computed.
#pragma once

#include "moe/inner_graph.h"
#include "moe/layer_area.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class UnifiedLayer {
  public:
    // Whether the layer is one for this class: such a device, a batch, every expert in hi, and a place for each.
    // REQUIRES: step.select().
    static bool takes(const LayerView & view, const LayerStep & step);

    // Takes the area if the layer needs it: waits for contexts that use it. To be called before step.load_all().
    // REQUIRES: takes(); what was added before was computed; end() of the step before.
    void begin(const LayerView & view);
    // Lets go of the area. REQUIRES: what was added was computed.
    void end() { hold_.give_back(); }

    // Whether each expert is where it is expected. A slot of its own may still be held by a read that failed.
    // REQUIRES: step.load_all().
    bool is_in_place(LayerStep & step) const;
    // Adds the layer's nodes, up to `view.end_idx`; the last ones are left to the next compute(). REQUIRES:
    // is_in_place().
    Status run(ggml_cgraph * graph, int first_idx, LayerStep & step, InnerGraph & inner);

  private:
    bool   has_own_slots() const { return !hold_; }
    Status add_nodes(ggml_cgraph * graph, int first_idx, LayerStep & step, InnerGraph & inner);
    Status gather_resident(LayerStep & step, InnerGraph & inner);
    Status bring(uint32_t part_idx, LayerStep & step, InnerGraph & inner);

    const LayerView *     view_ = nullptr;
    LayerArea::Hold       hold_;
    WeightArea            experts_; // where expert 0 begins
    std::vector<uint32_t> wanted_, arrived_;
    std::vector<int32_t>  slot_idxs_;
};

} // namespace hobbit
