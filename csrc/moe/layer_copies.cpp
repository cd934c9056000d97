#include "moe/layer_copies.h"

#include <algorithm>
#include <cassert>

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

bool LayerCopies::is_loaded(uint32_t key_idx, uint32_t part_idx) const {
    return step_->loaded().ready(lease_idx(key_idx), part_idx);
}

size_t LayerCopies::rank_of(uint32_t part_idx) const {
    const auto & parts = view_->part_order;
    return static_cast<size_t>(std::find(parts.begin(), parts.end(), part_idx) - parts.begin());
}

// In the order of use, of the first part of which a streamed matrix was not brought yet.
size_t LayerCopies::first_awaited_rank() const {
    size_t rank = view_->part_order.size();
    for (const Copy & copy : copies_) {
        if (copy.buffer_idx < 0 && !copy.used && is_streamed(copy.key_idx) && !is_loaded(copy.key_idx, copy.part_idx)) {
            rank = rank_of(copy.part_idx);
            break;
        }
    }
    for (const HostPart & part : host_parts_) {
        if (is_streamed(part.key_idx) && !is_loaded(part.key_idx, part.part_idx)) {
            rank = std::min(rank, rank_of(part.part_idx));
            break;
        }
    }
    return rank;
}

void LayerCopies::take(AheadCopies & ahead) {
    for (Copy & copy : copies_) {
        copy.buffer_idx = ahead.take(step_->keys()[copy.key_idx], copy.part_idx, *tier_step_);
        n_begun_ += copy.buffer_idx >= 0 ? 1 : 0;
    }
}

bool LayerCopies::begin_copy(Copy & copy, bool wait) {
    copy.buffer_idx = tier_step_->begin_copy(step_->keys()[copy.key_idx], copy.part_idx,
                                             step_->loaded().data(lease_idx(copy.key_idx), copy.part_idx), wait);
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
    const bool   has_ring = view_->model->tier->shape().has_ring();
    const size_t max_rank = first_awaited_rank();
    int64_t      waiting  = -1; // the part of which the drive has not brought all
    int64_t      full     = -1; // the part that has no buffer left
    for (Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 || copy.part_idx == full) {
            continue;
        }
        if ((has_ring && waiting >= 0 && copy.part_idx != waiting) || rank_of(copy.part_idx) > max_rank) {
            return;
        }
        if (!is_loaded(copy.key_idx, copy.part_idx)) {
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

bool LayerCopies::any_under_way(const std::vector<uint32_t> & part_idxs) const {
    return std::any_of(copies_.begin(), copies_.end(), [&](const Copy & copy) {
        return copy.buffer_idx >= 0 && !copy.used && contains(part_idxs, copy.part_idx);
    });
}

void LayerCopies::wait(const std::vector<uint32_t> & part_idxs) {
    under_way_.clear();
    for (const Copy & copy : copies_) {
        if (copy.buffer_idx >= 0 && !copy.used && contains(part_idxs, copy.part_idx)) {
            under_way_.push_back({copy.begin_idx, copy.buffer_idx});
        }
    }
    if (under_way_.empty()) {
        return;
    }
    std::sort(under_way_.begin(), under_way_.end()); // they are complete in the order in which they were begun
    const size_t n = AheadCopies::pays(*view_) ? (under_way_.size() + 1) / 2 : all_begun() ? under_way_.size() : 1;
    for (size_t i = 0; i < n; i++) {
        tier_step_->wait_copy(under_way_[i].second);
    }
}

bool LayerCopies::any_left_for_host(const std::vector<uint32_t> & part_idxs) const {
    return std::any_of(host_parts_.begin(), host_parts_.end(),
                       [&](const HostPart & part) { return contains(part_idxs, part.part_idx); });
}

void LayerCopies::take_loaded_for_host(uint32_t part_idx, std::vector<uint32_t> & key_idxs) {
    key_idxs.clear();
    const auto take = [&](const HostPart & part) {
        if (part.part_idx != part_idx || !is_loaded(part.key_idx, part_idx)) {
            return false;
        }
        key_idxs.push_back(part.key_idx);
        return true;
    };
    host_parts_.erase(std::remove_if(host_parts_.begin(), host_parts_.end(), take), host_parts_.end());
}

Status LayerCopies::wait_for_drive(const std::vector<uint32_t> & part_idxs) {
    assert(!any_under_way(part_idxs));
    size_t     rank      = view_->part_order.size();
    const auto is_wanted = [&](uint32_t part_idx) { return contains(part_idxs, part_idx); };
    const auto is_left   = [&](const Copy & copy) { return copy.buffer_idx < 0 && is_wanted(copy.part_idx); };
    for (const Copy & copy : copies_) {
        rank = is_left(copy) ? std::min(rank, rank_of(copy.part_idx)) : rank;
    }
    for (const HostPart & part : host_parts_) {
        rank = is_wanted(part.part_idx) ? std::min(rank, rank_of(part.part_idx)) : rank;
    }
    assert(rank < view_->part_order.size());
    const uint32_t part_idx      = view_->part_order[rank];
    bool           is_for_stream = false;
    lease_wanted_.clear();
    const auto want = [&](uint32_t key_idx) {
        lease_wanted_.push_back(lease_idx(key_idx));
        is_for_stream = is_for_stream || is_streamed(key_idx);
    };
    for (const Copy & copy : copies_) {
        if (copy.part_idx == part_idx && copy.buffer_idx < 0) {
            want(copy.key_idx);
        }
    }
    for (const HostPart & part : host_parts_) {
        if (part.part_idx == part_idx) {
            want(part.key_idx);
        }
    }
    if (is_for_stream) {
        give_back_later(part_idxs);
        assert(tier_step_->n_held() == 0);
    }
    lease_arrived_.clear();
    if (Status status = step_->loaded().wait_any(part_idx, lease_wanted_, lease_arrived_); !status.ok()) {
        return status;
    }
    const auto is_here = [&](uint32_t key_idx) { return contains(lease_arrived_, lease_idx(key_idx)); };
    if (std::any_of(host_parts_.begin(), host_parts_.end(),
                    [&](const HostPart & part) { return part.part_idx == part_idx && is_here(part.key_idx); })) {
        return {};
    }
    // As a rule there is a buffer for it; if not, other steps hold them, or this one for later parts.
    const auto first = std::find_if(copies_.begin(), copies_.end(), [&](const Copy & copy) {
        return copy.part_idx == part_idx && copy.buffer_idx < 0 && is_here(copy.key_idx);
    });
    if (!begin_copy(*first, tier_step_->n_held() == 0)) {
        give_back_later(part_idxs);
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
            step_->loaded().release_part(lease_idx(copy.key_idx), part_idx);
        }
    }
}

} // namespace hobbit
