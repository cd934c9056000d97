// One layer's experts for one batch: which (token, expert) pairs there are, and the lease that holds each expert.
#pragma once

#include "loader/loader.h"
#include "moe/device_reads.h"
#include "moe/expert_weights.h"
#include "moe/layer_view.h"
#include "moe/precision_step.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

class LayerStep {
  public:
    // Reads the selected ids, decides on precisions and tells the eviction policies. Where none has a choice now, the
    // loader's is left to tell_later(). `own_choice` [n_tokens][n_used]: the router's, if a filter changed it; policies
    // are told that, so that what is given up for want of room is not given up for good. REQUIRES: the router was
    // computed.
    Status select(const LayerView & view, const DeviceReads & reads, const std::vector<int32_t> * own_choice);
    // What no token waits for. To be called before the next select().
    void tell_later();
    bool is_told() const { return untold_ == nullptr; }
    // Asks the loader for the experts `key_idxs`, ascending indices of keys(). Never waits for the drive.
    void load(const LayerView & view, const std::vector<uint32_t> & key_idxs);
    void load_all(const LayerView & view);
    // Lets go of the experts.
    void end() {
        load_.reset();
        untold_ = nullptr;
    }

    LoadStep & loaded() { return *load_; }
    // Keeps what is loaded where it is beyond the end of the step.
    std::shared_ptr<LoadStep> share_loaded() const { return load_; }

    // The experts that are wanted, [n_keys].
    const std::vector<ExpertKey> & keys() const { return keys_; }

    // Of the layer that was selected for last.
    const ModelExperts * model() const { return model_; }
    uint32_t             n_tokens() const { return routing_.n_tokens; }

    // The router's choice, [n_tokens][n_used].
    const std::vector<int32_t> & ids() const { return ids_; }

    // Rows whose expert is skipped, ascending: they have no key, and gate weight zero.
    const std::vector<uint32_t> & skipped_rows() const { return skipped_rows_; }

    // Rows routed to the expert of a key, ascending.
    const uint32_t * rows(uint32_t key_idx) const { return rows_.data() + first_row_[key_idx]; }
    uint32_t         n_rows(uint32_t key_idx) const { return first_row_[key_idx + 1] - first_row_[key_idx]; }

    // Slot numbers in place of the ids, [n_tokens][n_used]. REQUIRES: every expert has a slot of one class.
    const std::vector<int32_t> & slot_ids(const ExpertWeights & weights);

  private:
    Status read_ids(const LayerView & view, const DeviceReads & reads);
    void   group_rows(const LayerView & view);
    void   describe_routing(const LayerView & view, const std::vector<int32_t> * own_choice);

    PrecisionStep             precision_;
    Loader *                  untold_ = nullptr; // its policy is still to be told
    Routing                   routing_;
    const ModelExperts *      model_ = nullptr;
    std::shared_ptr<LoadStep> load_;
    std::vector<int32_t>      ids_;      // [n_tokens][n_used]
    std::vector<int32_t>      told_ids_; // [n_tokens][n_used], what policies are told
    std::vector<Choice>       choices_;  // likewise, of those
    std::vector<int32_t>      key_of_;   // [n_expert], -1: not selected, or skipped
    std::vector<uint32_t>     skipped_rows_;
    std::vector<ExpertKey>    keys_;
    std::vector<ExpertKey>    loaded_keys_;
    std::vector<ExpertKey>    promoted_;  // hi copies of experts that are served in lo meanwhile
    std::vector<uint32_t>     first_row_; // [n_keys + 1] into rows_
    std::vector<uint32_t>     rows_;      // [n_tokens * n_used]
    std::vector<int32_t>      slot_ids_;
    std::vector<uint32_t>     cursor_;
};

} // namespace hobbit
