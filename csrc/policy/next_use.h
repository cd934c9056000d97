// Keeps what is likely to be used soon: a causal stand-in for Belady's rule, our own.
//
// The chance that a layer's next token uses an expert is put together from its rate of late, from whether the last
// token used it, and from how often it followed the experts that the last token used. Where gates were trained for the
// model, what they say counts as well (trained_weight). To that comes a Correction, which takes it down to one
// half at most. Layers come in turn, so of two equal chances the one whose layer comes sooner is worth more: the next
// layer counts almost in full, the current one, which has just been served, 1 - layer_weight.
//
// Beside lo copies a hi copy is worth its uses as a token's best expert, which the precision policies ask in hi, and a
// share (later_weight) of the others, which its lo copy would serve as well. There are more copies then, so the
// least of them is wanted rarely, and what follows what says less of it (mixed_follow_weight).
#pragma once

#include "policy/correction.h"
#include "policy/decayed_count.h"
#include "policy/eviction.h"
#include "policy/followers.h"

namespace hobbit {

class NextUse : public EvictionPolicy {
  public:
    NextUse(const EvictionModel & model, double decay, double last_weight, double layer_weight, double follow_weight,
            double mixed_follow_weight, double later_weight, double learning_rate, double trained_weight);

    // What its tables take for a model with so many experts, [n_layers].
    static uint64_t n_bytes(const std::vector<uint32_t> & n_expert);

    const char * name() const override { return "next-use"; }
    void         on_route(const Routing & routing) override;
    void         on_next_token(uint16_t layer_idx, const float * chances, uint32_t n) override;
    double       score(ExpertKey key) const override;
    void         reset() override;

  private:
    struct Expert {
        DecayedCount uses, uses_as_best;
        uint64_t     last = 0; // token of the last use
    };
    struct Layer {
        // n_before, n_after: experts of the layers that route before and after it, if it learns of them.
        Layer(uint32_t n_before, uint32_t n_expert, uint32_t n_after)
            : experts(n_expert), followers(n_expert), correction(n_before, n_expert, n_after), counted(n_expert),
              chances(n_expert), hi_shares(n_expert) {}

        void set_chances(); // from what was counted and the correction

        uint64_t            n_tokens = 0; // the layer's clock
        std::vector<Expert> experts;
        Followers           followers;
        Correction          correction;
        std::vector<double> counted;   // [expert], chance of being used by the next token, by counts and trained gates
        std::vector<double> chances;   // [expert], the same, corrected
        std::vector<double> hi_shares; // [expert], of that, what a hi copy is worth
    };

    static constexpr double   prior    = 8.0; // uses that a row of followers needs to weigh as much as the rate
    static constexpr uint16_t no_layer = UINT16_MAX;

    void correct(const Routing & routing);

    Decay                 decay_;
    double                rate_of_count_; // a count that fades settles at its rate times 1 / (1 - decay)
    double                last_weight_;
    double                layer_weight_;
    double                follow_weight_;
    double                later_weight_;
    double                learning_rate_;
    double                trained_weight_;
    std::vector<Layer>    layers_;
    std::vector<uint16_t> before_;                // [layer] the one that routes before it, in a circle
    uint16_t              layer_idx_  = 0;        // that routed last
    uint16_t              routed_idx_ = no_layer; // the same; no_layer where a sequence begins
    std::vector<int32_t>  routed_;                // what its last token used
    std::vector<double>   rates_;
    std::vector<double>   following_;
};

} // namespace hobbit
