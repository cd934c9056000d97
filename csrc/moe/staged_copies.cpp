#include "moe/staged_copies.h"

#include <algorithm>

namespace hobbit {

void StagedCopies::begin(const LayerView & view, LayerStep & step, TierStep & tier_step,
                         const std::vector<uint32_t> & missing, const std::vector<int32_t> & lease_idxs,
                         AheadCopies & ahead) {
    step_      = &step;
    tier_step_ = &tier_step;
    copies_.clear();
    for (const uint32_t part_idx : view.part_order) {
        for (const uint32_t i : missing) {
            const ExpertKey key = step.keys()[i];
            copies_.push_back(
                {key, static_cast<uint32_t>(lease_idxs[i]), part_idx, ahead.take(key, part_idx, tier_step), false});
        }
    }
}

bool StagedCopies::pump() {
    bool all_begun = true;
    for (Copy & copy : copies_) {
        if (copy.buffer_idx < 0 && step_->loaded().ready(copy.lease_idx, copy.part_idx)) {
            copy.buffer_idx = tier_step_->begin_staged(copy.key, copy.part_idx,
                                                       step_->loaded().data(copy.lease_idx, copy.part_idx), true);
        }
        all_begun = all_begun && copy.buffer_idx >= 0;
    }
    return all_begun;
}

bool StagedCopies::has_arrived(uint32_t part_idx) const {
    return std::all_of(copies_.begin(), copies_.end(), [&](const Copy & copy) {
        return copy.part_idx != part_idx ||
               (copy.buffer_idx >= 0 && (copy.is_done || tier_step_->is_copied(copy.buffer_idx)));
    });
}

// Waits for all that were begun. False: there were none.
bool StagedCopies::give_back_copied() {
    bool any = false;
    for (Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 && !copy.is_done) {
            tier_step_->wait_copy(copy.buffer_idx);
            step_->loaded().release_part(copy.lease_idx, copy.part_idx);
            copy.is_done = true;
            any          = true;
        }
    }
    return any;
}

Status StagedCopies::wait(uint32_t part_idx) {
    for (;;) {
        pump();
        lease_wanted_.clear();
        for (Copy & copy : copies_) {
            if (copy.part_idx != part_idx || copy.is_done) {
                continue;
            }
            if (copy.buffer_idx < 0) {
                lease_wanted_.push_back(copy.lease_idx);
                continue;
            }
            tier_step_->wait_copy(copy.buffer_idx);
            step_->loaded().release_part(copy.lease_idx, copy.part_idx);
            copy.is_done = true;
        }
        if (lease_wanted_.empty()) {
            return {};
        }
        // The drive is waited for. Until then nothing that it needs may be held: buffers of later parts.
        if (give_back_copied()) {
            continue;
        }
        lease_arrived_.clear();
        if (Status status = step_->loaded().wait_any(part_idx, lease_wanted_, lease_arrived_); !status.ok()) {
            return status;
        }
    }
}

} // namespace hobbit
