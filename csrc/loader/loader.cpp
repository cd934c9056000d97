#include "loader/loader_impl.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace hobbit {

Loader::Loader(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert, ExtentOf extent_of, Reader & reader,
               const LoaderOptions & options) {
    const std::vector<uint32_t> n_slots = split_budget(layouts.classes, options.expert_memory_bytes, options.lo_share);
    for (size_t i = 0; i < n_slots.size(); i++) {
        const uint64_t n_bytes = n_slots[i] * layouts.classes[i].slot_bytes;
        arenas_.push_back(options.make_arena ? options.make_arena(n_bytes) : Arena(n_bytes));
    }
    if (options.commit_ahead) {
        committer_ = std::make_unique<Committer>(arenas_);
    }
    impl_ = std::make_unique<Impl>(layouts, n_expert, n_slots, arenas_, std::move(extent_of), reader, options);
}

Loader::~Loader() = default;

void Loader::on_route(const Routing & routing) {
    if (impl_->score_source_) {
        impl_->set_scores(impl_->score_source_->on_route(routing));
        return;
    }
    MutexLock lock(impl_->mu_);
    impl_->policy_->on_route(routing);
}

void Loader::on_next_token(uint16_t layer_idx, const std::vector<float> & chances) {
    if (impl_->score_source_) {
        if (auto scores = impl_->score_source_->on_next_token(layer_idx, chances)) {
            impl_->set_scores(std::move(*scores));
        }
        return;
    }
    MutexLock lock(impl_->mu_);
    impl_->policy_->on_next_token(layer_idx, chances.data(), static_cast<uint32_t>(chances.size()));
}

void Loader::on_predict(uint16_t source_layer_idx, const std::vector<ExpectedUse> & uses) {
    if (impl_->score_source_) {
        if (auto scores = impl_->score_source_->on_predict(source_layer_idx, uses)) {
            impl_->set_scores(std::move(*scores));
        }
        return;
    }
    MutexLock lock(impl_->mu_);
    impl_->policy_->on_predict(source_layer_idx, uses.data(), static_cast<uint32_t>(uses.size()));
}

void Loader::find_resident(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best) const {
    std::fill(best, best + n, Resident::none);
    MutexLock lock(impl_->mu_);
    impl_->add_copies(layer_idx, expert_idxs, n, best, [](const SlotLoad & load) { return load.is_ready(); });
}

void Loader::find_coming(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best) const {
    std::fill(best, best + n, Resident::none);
    MutexLock lock(impl_->mu_);
    impl_->add_copies(layer_idx, expert_idxs, n, best, [](const SlotLoad & load) { return load.is_coming(); });
    impl_->add_copies(layer_idx, expert_idxs, n, best, [](const SlotLoad & load) { return load.is_ready(); });
}

bool Loader::holds_all() const {
    Impl & impl = *impl_;
    if (!impl.holds_all_) {
        MutexLock lock(impl.mu_);
        impl.holds_all_ = impl.holds_all();
    }
    return impl.holds_all_;
}

std::unique_ptr<LoadStep> Loader::begin(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order,
                                        Admission admission) {
    std::vector<LoadStep::Lease> leases(keys.size());
    for (size_t i = 0; i < keys.size(); i++) {
        assert(part_order.size() == impl_->layouts_.of(keys[i]).parts.size());
        leases[i].key = keys[i];
    }
    std::unique_ptr<LoadStep> step(new LoadStep(*impl_, std::move(leases)));
    std::vector<ReadOp>       ops;
    {
        MutexLock lock(impl_->mu_);
        impl_->open_step(step->leases_, *step->state_, part_order, admission);
        ops = impl_->next_ops();
    }
    impl_->submit(std::move(ops));
    return step;
}

std::unique_ptr<LoadStep> Loader::pin_resident(const std::vector<ExpertKey> & keys) {
    std::unique_ptr<LoadStep> step(new LoadStep(*impl_, {}));
    step->borrows_ = true;
    MutexLock lock(impl_->mu_);
    impl_->n_live_steps_++;
    for (const ExpertKey key : keys) {
        const SlotRef slot = impl_->cache_.find(key);
        if (slot && impl_->load_of(slot).is_ready()) {
            impl_->cache_.pin(slot);
            impl_->load_of(slot).n_borrows++;
            step->leases_.push_back({key, slot, true});
        }
    }
    return step;
}

void Loader::prefetch(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order) {
    std::vector<ReadOp> ops;
    {
        MutexLock lock(impl_->mu_);
        impl_->set_guesses(keys, part_order);
        ops = impl_->next_ops();
    }
    impl_->submit(std::move(ops));
}

void Loader::upgrade(const std::vector<ExpertKey> & keys) {
    MutexLock lock(impl_->mu_);
    impl_->add_upgrades(keys);
}

void Loader::warm(const std::vector<ExpertKey> & keys) {
    std::vector<ReadOp> ops;
    {
        MutexLock              lock(impl_->mu_);
        std::vector<ExpertKey> known;
        for (const ExpertKey key : keys) {
            const bool has_layer = impl_->layouts_.has(key.layer_idx, key.precision);
            if (has_layer && key.expert_idx < impl_->layouts_.of(key).n_expert) {
                known.push_back(key);
            }
        }
        impl_->fill_.insert(impl_->fill_.begin(), known.begin(), known.end());
        ops = impl_->next_ops();
    }
    impl_->submit(std::move(ops));
}

std::vector<ExpertKey> Loader::hot_set() const {
    const Impl &                              impl = *impl_;
    std::vector<std::pair<double, ExpertKey>> copies;
    {
        MutexLock lock(impl.mu_);
        for (size_t c = 0; c < impl.loads_.size(); c++) {
            for (size_t i = 0; i < impl.loads_[c].size(); i++) {
                if (impl.loads_[c][i].is_ready()) {
                    const ExpertKey key = impl.cache_.key_of({static_cast<int32_t>(c), static_cast<int32_t>(i)});
                    copies.emplace_back(impl.worth(key), key);
                }
            }
        }
    }
    std::stable_sort(copies.begin(), copies.end(), [](const auto & a, const auto & b) { return a.first > b.first; });
    std::vector<ExpertKey> keys;
    for (const auto & copy : copies) {
        keys.push_back(copy.second);
    }
    return keys;
}

PrefetchState Loader::prefetch_state() const {
    MutexLock              lock(impl_->mu_);
    const PrefetchBudget & budget = impl_->budget_;
    return {budget.read_bytes_s(), budget.step_us(), budget.window_us(), impl_->stats_.n_prefetch_late,
            impl_->stats_.n_prefetch_wasted};
}

void Loader::reset_sequence() {
    if (impl_->score_source_) {
        impl_->set_scores(impl_->score_source_->reset());
        return;
    }
    MutexLock lock(impl_->mu_);
    impl_->policy_->reset();
}

uint32_t Loader::n_slots(int32_t class_idx) const {
    MutexLock lock(impl_->mu_);
    return impl_->cache_.n_slots(class_idx);
}

uint64_t Loader::stream_ring_bytes(const CopyLayouts & layouts, uint32_t align, uint64_t stream_bytes) {
    return StreamRing::ring_memory_bytes(largest_part_bytes(layouts), stream_bytes, align);
}

uint64_t Loader::arena_bytes() const {
    uint64_t n = 0;
    for (const Arena & a : arenas_) {
        n += a.n_bytes();
    }
    return n;
}

uint64_t Loader::unfilled_bytes() const {
    uint64_t n = 0;
    for (const Arena & arena : arenas_) {
        n += arena.n_bytes() - arena.resident_bytes();
    }
    return n;
}

uint64_t Loader::stream_bytes() const {
    MutexLock lock(impl_->mu_);
    return impl_->ring_.n_bytes();
}

LoaderStats Loader::stats() const {
    MutexLock   lock(impl_->mu_);
    LoaderStats stats = impl_->stats_;
    stats.n_evictions = impl_->cache_.n_evictions();
    return stats;
}

std::vector<uint8_t> Loader::residency(uint16_t layer_idx, Precision precision) const {
    if (!impl_->layouts_.has(layer_idx, precision)) {
        return {};
    }
    const Impl &         impl = *impl_;
    MutexLock            lock(impl.mu_);
    std::vector<uint8_t> out(impl.layouts_.of({layer_idx, 0, precision}).n_expert, 0);
    for (size_t i = 0; i < out.size(); i++) {
        const SlotRef slot = impl.cache_.find({layer_idx, static_cast<uint16_t>(i), precision});
        if (slot && !impl.load_of(slot).is_leaving()) {
            out[i] = impl.load_of(slot).is_ready() ? 2 : 1;
        }
    }
    return out;
}

void Loader::check_invariants() const {
    MutexLock lock(impl_->mu_);
    impl_->check_invariants();
}

void Loader::clear() {
    MutexLock lock(impl_->mu_);
    impl_->holds_all_ = false;
    for (size_t c = 0; c < impl_->loads_.size(); c++) {
        for (size_t i = 0; i < impl_->loads_[c].size(); i++) {
            const SlotRef slot{static_cast<int32_t>(c), static_cast<int32_t>(i)};
            if (impl_->loads_[c][i].occupied && impl_->cache_.n_pins(slot) == 0) {
                impl_->evict(slot);
            }
        }
    }
}

} // namespace hobbit
