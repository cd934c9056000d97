// Runs the cache of a model on recorded routing, without the model: the loader itself, over a reader that reads
// nothing. So hits, victims and loads are the engine's by construction, as long as it does not read ahead (that depends
// on time).
#pragma once

#include "io/reader.h"
#include "loader/loader.h"
#include "policy/token_chooser.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

// What the cache has to know of a model.
struct ReplayModel {
    uint32_t                           n_used    = 0;            // experts of a token in a layer
    uint32_t                           alignment = 1;            // of the drive: slots have room for it
    std::vector<uint32_t>              n_expert;                 // [layer]; 0: none
    std::vector<std::vector<uint64_t>> part_bytes[n_precisions]; // [layer][part]; empty lo: there is no lo copy
};

// What is predicted at one layer for another.
struct ReplayGuess {
    uint16_t        layer_idx   = 0;
    const int32_t * expert_idxs = nullptr; // [n_used], likeliest first; the first below 0: nothing
    const float *   weights     = nullptr; // [n_used]
};

// A layer's step, in copies and bytes.
struct ReplayStep {
    uint32_t n_hits                 = 0;
    uint32_t n_misses[n_precisions] = {};
    uint32_t n_skipped              = 0;
    uint64_t miss_bytes             = 0;
    uint64_t guessed_miss_bytes     = 0; // of those, bytes of copies that had been guessed
    uint64_t guess_bytes            = 0; // copies that were guessed here and not resident
    uint64_t upgrade_bytes          = 0; // hi copies of experts that were served in lo
};

class Replay {
  public:
    // Throws as Loader's constructor does.
    Replay(const ReplayModel & model, const LoaderOptions & options, std::shared_ptr<const PrecisionPolicy> policy);
    ~Replay();

    // One token in one layer: expert_idxs and weights [n_used] as the router gave them; weights of 0: unknown, all hi.
    // next_chances: of trained gates, [n_expert] of the layer, or nullptr.
    // Guesses, the nearest layer first; with stop_at_gap none after the first that names a copy which is not resident.
    ReplayStep step(uint16_t layer_idx, const int32_t * expert_idxs, const float * weights, const float * next_chances,
                    const std::vector<ReplayGuess> & guesses, bool stop_at_gap);
    void       reset_sequence();

    uint32_t max_expert() const; // of any layer

    const Loader &      loader() const { return *loader_; }
    const CopyLayouts & layouts() const { return layouts_; }

  private:
    void choose(uint16_t layer_idx, const int32_t * expert_idxs, const float * weights, std::vector<Choice> & choices);
    // What the engine would read in idle time, as if there always were some.
    void upgrade(uint16_t layer_idx, const int32_t * expert_idxs, const std::vector<uint32_t> & part_order,
                 ReplayStep & step);
    void note_guess(uint16_t source_layer_idx, const ReplayGuess & guess, ReplayStep & step);

    ReplayModel                            model_;
    CopyLayouts                            layouts_;
    std::shared_ptr<const PrecisionPolicy> policy_;
    std::unique_ptr<Reader>                reader_;
    std::unique_ptr<Loader>                loader_;
    TokenChooser                           chooser_;
    std::vector<std::vector<ExpertKey>>    guessed_; // [layer], until it was stepped
    std::vector<Resident>                  resident_;
    std::vector<Choice>                    choices_;
    std::vector<ExpertKey>                 keys_;
};

} // namespace hobbit
