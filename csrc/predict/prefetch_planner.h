// From guesses to a list for Loader::prefetch: which layers are looked at, which experts of them, in which copy.
#pragma once

#include "cache/copy_layout.h"
#include "loader/loader.h"
#include "policy/eviction.h"
#include "policy/precision.h"
#include "policy/router_filter.h"
#include "predict/horizon.h"
#include "predict/prediction_record.h"
#include "predict/predictor.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace hobbit {

struct PrefetchOptions {
    std::string predictor = "stacked-gates";
    std::string horizon   = "first-gap";
    uint32_t    depth     = 2; // layers ahead; 0: all, where the horizon may look at all
};

// What gates make of the input of the router at work.
struct GateLogits {
    uint32_t                   n_tokens = 0;
    std::vector<const float *> of_layer; // [n_layers]: [n_tokens][n_expert], or nullptr
    // Of the layer at work, [n_tokens][n_expert]: what its own router made of it, before biases, or of trained gates
    // the chance that the next token uses the expert. nullptr: not asked for.
    const float * own = nullptr;
    // That input as gates get it, [n_tokens][n_embd]; nullptr: not asked for.
    const float * input  = nullptr;
    uint32_t      n_embd = 0;
};

// The best copy of each of a layer's experts that computing may begin with: expert_idxs [n], resident [n].
using FindResident =
    std::function<void(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * resident)>;

// How often the guesses were right, by distance. Shared by the contexts of a model, read from any thread.
struct PredictionCounts {
    static constexpr uint32_t max_distance = 4;

    std::array<std::atomic<uint64_t>, max_distance> n_selected{}; // experts that layers selected ...
    std::array<std::atomic<uint64_t>, max_distance> n_guessed{};  // ... and that were among as many best guesses
};

// One a context, used by its thread.
class PrefetchPlanner {
  public:
    // `layouts` and `counts` are borrowed. `filter` is one of the kind that acts on the model's routers: what it will
    // give up for a resident expert is not guessed; nullptr: none. Throws std::invalid_argument for unknown names.
    PrefetchPlanner(const PrefetchOptions & options, const PredictorModel & model, const PredictorShared & shared,
                    const CopyLayouts & layouts, PredictionCounts & counts,
                    std::unique_ptr<RouterFilter> filter = nullptr);

    // How many layers ahead such gates should be given for; 0: they are not used.
    uint32_t n_gate_layers(Gates gates) const { return predictor_->gates() == gates ? depth_ : 0; }

    // What comes next does not go on with what came before.
    void begin_sequence();
    void begin_pass(const int32_t * token_ids, uint32_t n_tokens);

    // The layer at work selected expert_idxs [n_tokens][n_used].
    void observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens);

    // What the layers after it will probably want, best first, resident copies included. After observe().
    // What is resident is asked of `find_resident`, where that is not the loader (DeviceTier::find_resident).
    const std::vector<ExpertKey> & plan(const Loader & loader, const PrecisionPolicy & precision,
                                        const GateLogits & gates, const FindResident & find_resident = {});
    // The same layers' candidates, whatever is resident and in which copy: for the eviction policy. After plan().
    const std::vector<ExpectedUse> & expected() const { return expected_; }

  private:
    struct Guess {
        ExpertKey key;
        float     worth;
    };
    // The best guesses about a layer that has not come yet.
    struct Bet {
        uint32_t             n_rows = 0;
        std::vector<int32_t> expert_idxs; // [n_rows][n_used]
    };

    void     record(const GateLogits & gates);
    void     expect(const PredictionTarget & target, size_t first, const float * row);
    void     settle(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_tokens);
    uint32_t depth_now(const Loader & loader);
    bool     add_layer(const FindResident & find_resident, const PrecisionPolicy & precision,
                       const PredictionTarget & target, float nearness); // returns whether something is absent
    bool add_row(const FindResident & find_resident, const PrecisionPolicy & precision, const PredictionTarget & target,
                 const float * row, float nearness);
    uint32_t n_candidates(const float * row) const;
    void     apply_filter(uint16_t layer_idx, const float * row);

    HorizonKind                         kind_;
    uint32_t                            depth_;
    PredictorModel                      model_;
    const CopyLayouts &                 layouts_;
    std::unique_ptr<Predictor>          predictor_;
    StepController                      controller_;
    const std::unique_ptr<RouterFilter> filter_;
    uint64_t                            n_late_ = 0, n_wasted_ = 0; // of the loader, when they were last looked at
    double                              n_experts_ = 0;             // N_e, mean
    std::vector<uint16_t>               moe_layers_;
    std::vector<size_t>                 place_; // [layer] in moe_layers_
    uint16_t                            layer_idx_ = 0;
    uint32_t                            n_tokens_  = 0;
    std::vector<std::array<Bet, PredictionCounts::max_distance>> bets_; // [layer]
    PredictionCounts &                                           counts_;
    std::shared_ptr<PredictionRecord>                            record_;    // nullptr: nothing is recorded
    std::vector<int32_t>                                         token_ids_; // of the pass, for the record
    std::vector<int32_t>                                         selected_;  // of the layer at work, for the record

    std::vector<float>       rows_;
    std::vector<float>       scores_;
    std::vector<int32_t>     ids_;
    std::vector<float>       weights_;
    std::vector<Resident>    resident_, resident_of_; // by place in ids_, and by expert
    std::vector<Choice>      choices_;
    std::vector<Guess>       guesses_;
    std::vector<ExpectedUse> expected_; // layer by layer
    std::vector<ExpertKey>   keys_;
};

} // namespace hobbit
