// What is brought ahead of the layers of a pass: from the drive into the host's memory, and from there to a device with
// memory of its own. Predictor, horizon and filters are the model's to say.
#pragma once

#include "moe/both_gates.h"
#include "moe/layer_step.h"
#include "moe/layer_view.h"
#include "moe/tiered_layer.h"
#include "predict/prefetch_planner.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

// One for each context.
class LookAhead {
  public:
    // A pass begins over the layers of a model (nullptr: of none); `tokens` are its token ids, [n_tokens], or nullptr.
    // Returns what the routers and trained gates should be asked.
    struct Needs {
        GateNeeds routers, trained;
    };
    Needs begin_pass(ModelExperts * model, const ggml_tensor * tokens, uint32_t n_tokens);

    // Tells the loader's eviction policy what trained gates say of the next token in the layer at work. Before the
    // layer's experts are looked up.
    void tell_next_token(const LayerView & view, GatesAhead & trained, const DeviceReads & reads);

    // The layer at work selected what `step` has: reads what those after it will probably want.
    void read(const LayerView & view, const LayerStep & step, BothGates & both, const DeviceReads & reads);
    // The same for a device: copies it, and reads what is not even in the host's memory.
    void copy(const LayerView & view, const LayerStep & step, BothGates & both, const DeviceReads & reads,
              TieredLayer & tiered);

  private:
    const std::vector<ExpertKey> & plan(const LayerView & view, BothGates & both, const DeviceReads & reads,
                                        const FindResident & find_resident = {});

    std::unique_ptr<PrefetchPlanner> planner_; // of planned_for_, as of its version; nullptr: nothing is brought ahead
    const ModelExperts *             planned_for_ = nullptr;
    uint64_t                         version_     = 0;
    uint64_t                         sequence_    = 0;
    std::vector<int32_t>             token_ids_;
    std::vector<float>               chances_;
};

} // namespace hobbit
