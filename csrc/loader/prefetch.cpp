// The second class of reads: what the coming steps will probably want.
//
// A copy that is read ahead ends in one of four ways, and its bytes are counted there: complete when a step first wants
// it (useful), wanted before (late: its queued pieces are promoted), evicted before anybody wanted it (wasted), or
// given up while it is read (what was read is wasted, what was still queued is cancelled).
#include "loader/loader_impl.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

namespace {

// Room for fewer copies than this times what a layer wants of a class holds what the token needs, not what it may need
// next: then nothing of the class is read ahead.
constexpr double min_slots_per_wanted = 4.0;

constexpr size_t max_upgrades = 64; // a token's worth; older ones are asked for again if they matter

// Orders copies that no token chose yet by when they were read, below anything that a token chose of late.
constexpr double max_prior = 1e-9;

} // namespace

void Loader::Impl::set_guesses(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order) {
    cache_.clear_soft_pins();
    guesses_.clear();
    next_guess_ = 0;
    for (const ExpertKey key : keys) {
        const SlotRef slot = cache_.find(key);
        if (!slot) {
            guesses_.push_back(key);
        } else if (!load_of(slot).is_leaving()) {
            cache_.soft_pin(slot);
        }
    }
    guess_parts_ = part_order;
    give_up([this](SlotRef slot) { return !cache_.is_soft_pinned(slot); });

    guess_bytes_left_ = 0;
    if (guesses_.empty() && reading_ahead_.empty()) {
        return; // the budget's trials are for guesses
    }
    guess_bytes_left_ = static_cast<int64_t>(budget_.take());
    for (const SlotRef slot : reading_ahead_) {
        guess_bytes_left_ -= static_cast<int64_t>(load_of(slot).n_bytes);
    }
#ifndef NDEBUG
    check_reads_ahead();
#endif
}

bool Loader::Impl::queue_guess() {
    while (guess_bytes_left_ > 0 && next_guess_ < guesses_.size()) {
        const ExpertKey key       = guesses_[next_guess_++];
        const uint32_t  class_idx = layouts_.of(key).class_idx;
        if (cache_.n_slots(static_cast<int32_t>(class_idx)) < min_slots_per_wanted * n_wanted_[class_idx]) {
            continue;
        }
        const SlotRef slot = queue_ahead(key, Admission::if_free);
        if (slot) {
            SlotLoad & load = load_of(slot);
            load.prefetched = true;
            cache_.soft_pin(slot);
            reading_ahead_.push_back(slot);
            guess_bytes_left_ -= static_cast<int64_t>(load.n_bytes);
            upgrade_budget_.spend(load.n_bytes);
            stats_.n_prefetched++;
            stats_.prefetched_bytes += load.n_bytes;
            return true;
        }
    }
    return false;
}

void Loader::Impl::add_upgrades(const std::vector<ExpertKey> & keys) {
    for (const ExpertKey key : keys) {
        const SlotRef slot = cache_.find(key);
        if (slot) {
            judge_wanted(slot); // the guess was right, if late, so it is not given up
        } else if (std::find(upgrades_.begin(), upgrades_.end(), key) == upgrades_.end()) {
            upgrades_.push_front(key);
        }
    }
    upgrades_.resize(std::min(upgrades_.size(), max_upgrades));
}

bool Loader::Impl::queue_upgrade() {
    while (!upgrades_.empty()) {
        const ExpertKey key = upgrades_.front();
        if (!upgrade_budget_.allows(layouts_.of(key).n_bytes())) {
            return false;
        }
        upgrades_.pop_front();
        const SlotRef slot = queue_ahead(key, Admission::if_better);
        if (slot) {
            upgrade_budget_.spend(load_of(slot).n_bytes);
            stats_.n_upgraded++;
            return true;
        }
    }
    return false;
}

bool Loader::Impl::queue_fill() {
    while (!fill_.empty()) {
        const ExpertKey key = fill_.front();
        fill_.pop_front();
        if (cache_.n_free(static_cast<int32_t>(layouts_.of(key).class_idx)) == 0) {
            continue;
        }
        const SlotRef slot = queue_ahead(key, Admission::always);
        if (slot) {
            load_of(slot).prior = max_prior / static_cast<double>(n_ahead_);
            return true;
        }
    }
    return false;
}

SlotRef Loader::Impl::queue_ahead(ExpertKey key, Admission admission) {
    const SlotRef slot = admit(key, admission);
    if (!slot) {
        return {};
    }
    load_of(slot).is_ahead = true;
    ReadOrder order;
    order.is_ahead = true;
    order.step_no  = n_ahead_++;
    for (uint32_t part_idx = 0; part_idx < layouts_.of(key).parts.size(); part_idx++) {
        order.rank = part_idx;
        for (uint32_t i = 0; i < guess_parts_.size(); i++) {
            order.rank = guess_parts_[i] == part_idx ? i : order.rank;
        }
        queue_part(slot, key, part_idx, order);
    }
    return slot;
}

void Loader::Impl::judge_wanted(SlotRef slot) {
    SlotLoad & load = load_of(slot);
    if (!load.prefetched) {
        return;
    }
    load.prefetched = false;
    stats_.n_prefetch_used++;
    (load.is_ready() ? stats_.prefetch_useful_bytes : stats_.prefetch_late_bytes) += load.n_bytes;
    stats_.n_prefetch_late += load.is_ready() ? 0 : 1;
    budget_.on_judged(true);
    stop_reading_ahead(slot);
}

void Loader::Impl::judge_unwanted(SlotLoad & load, uint64_t cancelled_bytes) {
    if (!load.prefetched) {
        return;
    }
    load.prefetched = false;
    stats_.prefetch_cancelled_bytes += cancelled_bytes;
    stats_.prefetch_wasted_bytes += load.n_bytes - cancelled_bytes;
    stats_.n_prefetch_wasted++;
    budget_.on_judged(false);
}

void Loader::Impl::stop_reading_ahead(SlotRef slot) {
    reading_ahead_.erase(std::remove(reading_ahead_.begin(), reading_ahead_.end(), slot), reading_ahead_.end());
}

void Loader::Impl::give_up(const std::function<bool(SlotRef)> & is_given_up) {
    // Backwards: cancelling takes out the entry, and so moves only those behind it.
    for (size_t i = reading_ahead_.size(); i-- > 0;) {
        // Where every copy has a slot, no read is for nothing.
        if (!cache_.fits_as_a_whole(static_cast<uint32_t>(reading_ahead_[i].class_idx)) &&
            is_given_up(reading_ahead_[i])) {
            cancel_ahead(reading_ahead_[i]);
        }
    }
}

void Loader::Impl::cancel_ahead(SlotRef slot) {
    SlotLoad & load = load_of(slot);
    assert(load.prefetched && load.n_left > 0 && cache_.n_pins(slot) == 1);
    stop_reading_ahead(slot);
    const uint64_t cancelled_bytes = queue_.cancel(slot, load.n_pieces_left);
    judge_unwanted(load, cancelled_bytes);
    load.is_cancelled = true;
    load.n_left       = 0;
    for (const uint32_t n : load.n_pieces_left) {
        load.n_left += n;
    }
    if (load.n_left == 0) {
        unpin(slot); // nothing is in flight: the slot is free at once
    }
}

void Loader::Impl::disprove_guesses(uint16_t layer_idx) {
    cache_.clear_soft_pins(layer_idx);
    guesses_.erase(guesses_.begin(), guesses_.begin() + static_cast<std::ptrdiff_t>(next_guess_));
    next_guess_ = 0;
    guesses_.erase(std::remove_if(guesses_.begin(), guesses_.end(),
                                  [layer_idx](ExpertKey key) { return key.layer_idx == layer_idx; }),
                   guesses_.end());
    give_up([&](SlotRef slot) { return cache_.key_of(slot).layer_idx == layer_idx; });
}

SlotRef Loader::Impl::admit_wanted(ExpertKey key, Admission admission) {
    SlotRef slot = admit(key, admission);
    if (!slot && !reading_ahead_.empty() && !cache_.find(key)) {
        // What is wanted comes before what may be: the slots of guesses in progress are the last that can be had.
        const auto class_idx = static_cast<int32_t>(layouts_.of(key).class_idx);
        give_up([&](SlotRef ahead) { return ahead.class_idx == class_idx; });
        slot = admit(key, admission);
    }
    return slot;
}

} // namespace hobbit
