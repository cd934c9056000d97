#include "moe/layer_copies.h"

#include <algorithm>

namespace hobbit {

namespace {

bool contains(const std::vector<uint32_t> & values, uint32_t value) {
    return std::find(values.begin(), values.end(), value) != values.end();
}

} // namespace

void LayerCopies::begin(const LayerView & view, LayerStep & step, TierStep & tier_step,
                        const std::vector<int32_t> & lease_idxs) {
    view_       = &view;
    step_       = &step;
    tier_step_  = &tier_step;
    lease_idxs_ = &lease_idxs;
    end();
}

bool LayerCopies::is_loaded(const Copy & copy) const { return step_->loaded().ready(lease_idx(copy), copy.part_idx); }

void LayerCopies::take(AheadCopies & ahead) {
    for (Copy & copy : copies_) {
        copy.buffer_idx = ahead.take(step_->keys()[copy.key_idx], copy.part_idx, *tier_step_);
        n_begun_ += copy.buffer_idx >= 0 ? 1 : 0;
    }
}

bool LayerCopies::begin_copy(Copy & copy, bool wait) {
    copy.buffer_idx = tier_step_->begin_copy(step_->keys()[copy.key_idx], copy.part_idx,
                                             step_->loaded().data(lease_idx(copy), copy.part_idx), wait);
    if (copy.buffer_idx < 0) {
        return false;
    }
    copy.begin_idx = ++n_ever_begun_;
    n_begun_++;
    return true;
}

void LayerCopies::pump() {
    if (all_begun()) {
        return;
    }
    const bool has_ring = view_->model->tier->shape().has_ring();
    int64_t    waiting  = -1; // the part of which the drive has not brought all
    int64_t    full     = -1; // the part that has no buffer left
    for (Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 || copy.part_idx == full) {
            continue;
        }
        if (has_ring && waiting >= 0 && copy.part_idx != waiting) {
            return;
        }
        if (!is_loaded(copy)) {
            waiting = copy.part_idx;
        } else if (!begin_copy(copy, false)) {
            if (has_ring) {
                return;
            }
            full = copy.part_idx;
        }
    }
}

bool LayerCopies::any_left(const std::vector<uint32_t> & part_idxs) const {
    return std::any_of(copies_.begin(), copies_.end(),
                       [&](const Copy & copy) { return !copy.used && contains(part_idxs, copy.part_idx); });
}

bool LayerCopies::have_arrived(const std::vector<uint32_t> & part_idxs) const {
    return std::all_of(copies_.begin(), copies_.end(), [&](const Copy & copy) {
        return copy.used || !contains(part_idxs, copy.part_idx) ||
               (copy.buffer_idx >= 0 && tier_step_->is_copied(copy.buffer_idx));
    });
}

Status LayerCopies::wait(const std::vector<uint32_t> & part_idxs) {
    const Copy * first = nullptr; // in the order of use
    lease_wanted_.clear();
    under_way_.clear();
    for (const Copy & copy : copies_) {
        if (copy.used || !contains(part_idxs, copy.part_idx)) {
            continue;
        }
        if (copy.buffer_idx >= 0) {
            under_way_.push_back({copy.begin_idx, copy.buffer_idx});
        }
        first = first != nullptr ? first : &copy;
        if (copy.part_idx == first->part_idx) {
            lease_wanted_.push_back(lease_idx(copy));
        }
    }
    if (!under_way_.empty()) {
        std::sort(under_way_.begin(), under_way_.end()); // they are complete in the order in which they were begun
        const size_t n = AheadCopies::pays(*view_) ? (under_way_.size() + 1) / 2 : all_begun() ? under_way_.size() : 1;
        for (size_t i = 0; i < n; i++) {
            tier_step_->wait_copy(under_way_[i].second);
        }
        return {};
    }
    if (first == nullptr) {
        return {};
    }
    // None was begun: the drive has not brought one yet, or other steps hold all buffers.
    const uint32_t part_idx = first->part_idx;
    lease_arrived_.clear();
    if (Status status = step_->loaded().wait_any(part_idx, lease_wanted_, lease_arrived_); !status.ok()) {
        return status;
    }
    for (Copy & copy : copies_) {
        if (copy.part_idx == part_idx && lease_idx(copy) == lease_arrived_.front()) {
            if (begin_copy(copy, tier_step_->n_held() == 0)) {
                tier_step_->wait_copy(copy.buffer_idx);
            } else {
                give_back_later(part_idxs);
            }
            break;
        }
    }
    return {};
}

// What was begun ahead for later parts must not hold the buffers that these parts wait for.
void LayerCopies::give_back_later(const std::vector<uint32_t> & part_idxs) {
    for (Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 && !copy.used && !contains(part_idxs, copy.part_idx)) {
            tier_step_->wait_copy(copy.buffer_idx);
            tier_step_->release(copy.buffer_idx);
            copy.buffer_idx = -1;
            n_begun_--;
        }
    }
}

void LayerCopies::take_arrived(uint32_t part_idx, std::vector<uint32_t> & key_idxs, std::vector<int32_t> & buffers) {
    key_idxs.clear();
    buffers.assign(step_->keys().size(), -1);
    for (Copy & copy : copies_) {
        if (copy.part_idx == part_idx && !copy.used && copy.buffer_idx >= 0 && tier_step_->is_copied(copy.buffer_idx)) {
            copy.used             = true;
            buffers[copy.key_idx] = copy.buffer_idx;
            key_idxs.push_back(copy.key_idx);
            step_->loaded().release_part(lease_idx(copy), part_idx);
        }
    }
}

} // namespace hobbit
