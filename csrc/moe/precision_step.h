// Applies a precision policy to a layer's batch: which experts are wanted in which copy, which are skipped.
#pragma once

#include "moe/device_reads.h"
#include "moe/layer_view.h"
#include "policy/precision.h"
#include "policy/token_chooser.h"

#include <cstdint>
#include <vector>

namespace hobbit {

class PrecisionStep {
  public:
    // Decides for the selected experts, ids [n_tokens][n_used]. Choices are then in choice_of().
    void decide(const LayerView & view, const std::vector<int32_t> & ids, const PrecisionPolicy & policy,
                const DeviceReads & reads);

    Choice choice_of(int32_t expert_idx) const { return choice_of_[static_cast<size_t>(expert_idx)]; }
    bool   any_skipped() const { return any_skipped_; }

    // Takes skipped experts out of the layer's sum: their gate weights become zero; with `renormalise` the token's
    // other weights grow so that its sum stays.
    void drop_skipped(const LayerView & view, const std::vector<int32_t> & ids, bool renormalise);

  private:
    TokenChooser          chooser_;
    std::vector<Choice>   choice_of_; // [n_expert]
    bool                  any_skipped_ = false;
    std::vector<float>    weights_;     // [n_tokens][n_used], as the router gave them
    std::vector<int32_t>  selected_;    // distinct experts
    std::vector<Resident> resident_of_; // [n_expert]
    std::vector<Resident> resident_;    // of selected_ first, then of one token after the other
    std::vector<Choice>   choices_;
};

} // namespace hobbit
