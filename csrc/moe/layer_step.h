// One layer's experts for one batch: which (token, expert) pairs there are, and the lease that holds each expert.
#pragma once

#include "loader/loader.h"
#include "moe/layer_view.h"
#include "moe/precision_step.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

class LayerStep {
  public:
    // Reads the selected ids, tells the eviction policy and asks the loader for what is needed. Never waits for the
    // drive.
    Status begin(const LayerView & view);
    // Lets go of the experts.
    void end() { load_.reset(); }

    LoadStep & load() { return *load_; }

    // Rows whose expert is skipped, ascending: they have no lease, and gate weight zero.
    const std::vector<uint32_t> & skipped_rows() const { return skipped_rows_; }

    // Rows routed to the expert of a lease, ascending.
    const uint32_t * rows(uint32_t lease_idx) const { return rows_.data() + first_row_[lease_idx]; }
    uint32_t         n_rows(uint32_t lease_idx) const { return first_row_[lease_idx + 1] - first_row_[lease_idx]; }

    // What the router selected, [n_tokens][n_used].
    const std::vector<int32_t> & ids() const { return ids_; }

    // Slot numbers in place of the ids, [n_tokens][n_used]. REQUIRES: every lease has a slot of one class.
    const std::vector<int32_t> & slot_ids();

  private:
    Status read_ids(const LayerView & view);
    void   group_rows(const LayerView & view);

    PrecisionStep             precision_;
    std::unique_ptr<LoadStep> load_;
    std::vector<int32_t>      ids_;      // [n_tokens][n_used]
    std::vector<int32_t>      lease_of_; // [n_expert], -1: not selected, or skipped
    std::vector<uint32_t>     skipped_rows_;
    std::vector<ExpertKey>    keys_;      // [n_leases]
    std::vector<uint32_t>     first_row_; // [n_leases + 1] into rows_
    std::vector<uint32_t>     rows_;      // [n_tokens * n_used]
    std::vector<int32_t>      slot_ids_;
    std::vector<uint32_t>     cursor_;
};

} // namespace hobbit
