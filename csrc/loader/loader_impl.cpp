#include "loader/loader_impl.h"

#include "base/timeline.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace hobbit {

namespace {

// Two reads at once keep a drive busy enough, and leave threads on which a wanted one begins at once.
constexpr uint32_t max_ahead_in_flight = 2;

// Bytes of a lo copy over those of a hi copy, over the whole model; without lo copies it does not matter.
double lo_cost(const CopyLayouts & layouts) {
    uint64_t n_bytes[n_precisions] = {};
    for (int precision = 0; precision < n_precisions; precision++) {
        for (const CopyLayout & layout : layouts.layouts[precision]) {
            n_bytes[precision] += layout.n_expert * layout.n_bytes();
        }
    }
    return n_bytes[0] > 0 ? static_cast<double>(n_bytes[1]) / static_cast<double>(n_bytes[0]) : 0.0;
}

std::unique_ptr<EvictionPolicy> make_policy(const LoaderOptions & options, const EvictionModel & model) {
    if (options.score_source) {
        return std::make_unique<TableEviction>(options.score_source->begin(model));
    }
    return make_eviction_policy(options.eviction, model);
}

} // namespace

Loader::Impl::Impl(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert,
                   const std::vector<uint32_t> & n_slots, const std::vector<Arena> & arenas, ExtentOf extent_of,
                   Reader & reader, const LoaderOptions & options)
    : layouts_(layouts), arenas_(arenas), extent_of_(std::move(extent_of)), score_source_(options.score_source),
      reader_(reader), max_in_flight_(std::max(reader.queue_depth(), 1u) * 2),
      max_ahead_in_flight_(std::clamp(reader.queue_depth() / 2, 1u, max_ahead_in_flight)),
      policy_(make_policy(options, {n_expert, lo_cost(layouts)})),
      cache_(layouts, n_slots, [this](ExpertKey key) { return worth(key); }),
      queue_(reader.alignment(), options.max_read_bytes),
      ring_(largest_part_bytes(layouts), options.stream_bytes, reader.alignment(), options.make_arena) {
    for (const uint32_t n : n_slots) {
        loads_.emplace_back(n);
    }
    for (const SizeClass & size_class : layouts.classes) {
        n_wanted_.push_back(size_class.max_n_used); // until it was seen how many are wanted in hi and in lo
    }
    reader_.set_completion([this](uint64_t tag, const Status & status) { on_completion(tag, status); });
    if (options.fill) {
        start_filling();
    }
}

void Loader::Impl::start_filling() {
    std::vector<ReadOp> ops;
    {
        MutexLock lock(mu_);
        for (int precision = 0; precision < n_precisions; precision++) {
            const auto & of_layer = layouts_.layouts[precision];
            for (uint16_t layer_idx = 0; layer_idx < of_layer.size(); layer_idx++) {
                const CopyLayout & layout = of_layer[layer_idx];
                if (layout.n_expert == 0 || !cache_.fits_as_a_whole(layout.class_idx)) {
                    continue;
                }
                for (uint16_t expert_idx = 0; expert_idx < layout.n_expert; expert_idx++) {
                    fill_.push_back({layer_idx, expert_idx, static_cast<Precision>(precision)});
                }
            }
        }
        ops = next_ops();
    }
    submit(std::move(ops));
}

bool Loader::Impl::holds_all() const {
    const auto & of_layer = layouts_.layouts[static_cast<int>(Precision::hi)];
    if (!layouts_.layouts[static_cast<int>(Precision::lo)].empty()) {
        return false;
    }
    for (uint16_t layer_idx = 0; layer_idx < of_layer.size(); layer_idx++) {
        for (uint16_t expert_idx = 0; expert_idx < of_layer[layer_idx].n_expert; expert_idx++) {
            const ExpertKey key{layer_idx, expert_idx, Precision::hi};
            const SlotRef   slot = cache_.find(key);
            if (!slot || slot.slot_idx != cache_.own_slot(key) || !load_of(slot).is_ready()) {
                return false;
            }
        }
    }
    return true;
}

void Loader::Impl::set_scores(ScoreTable scores) {
    MutexLock lock(mu_);
    static_cast<TableEviction &>(*policy_).set_scores(std::move(scores));
}

// A hi copy serves whatever its lo copy would, so beside it the lo copy is the first to go.
double Loader::Impl::worth(ExpertKey key) const {
    if (key.precision == Precision::lo) {
        const SlotRef hi = cache_.find({key.layer_idx, key.expert_idx, Precision::hi});
        if (hi && load_of(hi).is_ready()) {
            return -1.0;
        }
    }
    const SlotRef slot = cache_.find(key);
    return policy_->score(key) + (slot ? load_of(slot).prior : 0.0);
}

Loader::Impl::~Impl() {
    {
        MutexLock lock(mu_);
        assert(n_live_steps_ == 0);
        closing_ = true;
        guesses_.clear();
        upgrades_.clear();
        fill_.clear();
        queue_.clear();
        while (queue_.n_in_flight() > 0) {
            changed_.wait(mu_);
        }
    }
    reader_.drain(); // the last completion may still be on its way out of on_completion()
}

void Loader::Impl::add_copies(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best,
                              bool (*counts)(const SlotLoad &)) const {
    for (const Precision precision : {Precision::lo, Precision::hi}) { // hi last: it is the better one
        if (!layouts_.has(layer_idx, precision)) {
            continue;
        }
        for (uint32_t i = 0; i < n; i++) {
            const SlotRef slot = cache_.find({layer_idx, static_cast<uint16_t>(expert_idxs[i]), precision});
            if (slot && counts(load_of(slot))) {
                best[i] = precision == Precision::hi ? Resident::hi : Resident::lo;
            }
        }
    }
}

SlotLoad & Loader::Impl::load_of(SlotRef slot) {
    return loads_[static_cast<size_t>(slot.class_idx)][static_cast<size_t>(slot.slot_idx)];
}

const SlotLoad & Loader::Impl::load_of(SlotRef slot) const {
    return loads_[static_cast<size_t>(slot.class_idx)][static_cast<size_t>(slot.slot_idx)];
}

std::byte * Loader::Impl::slot_data(SlotRef slot, ExpertKey key, uint32_t part_idx) const {
    const size_t class_idx = static_cast<size_t>(slot.class_idx);
    return arenas_[class_idx].data() + static_cast<uint64_t>(slot.slot_idx) * layouts_.classes[class_idx].slot_bytes +
           layouts_.of(key).parts[part_idx].data_offset;
}

void Loader::Impl::open_step(std::vector<LoadStep::Lease> & leases, LoadStep::State & state,
                             const std::vector<uint32_t> & part_order, Admission admission) {
    state.request_idxs.resize(leases.size());
    std::vector<uint32_t> missing; // lease indices
    struct Promoted {
        uint32_t  lease_idx;
        ReadOrder orders[max_parts];
    };
    std::vector<Promoted> promoted;
    n_live_steps_++;
    const uint64_t step_no = n_steps_++;
    note_wanted(leases);
    budget_.on_step(Timeline::now_us());
    upgrade_budget_.save(budget_.idle_bytes());

    // All that is resident is pinned before anything is admitted: a step never evicts what it needs itself.
    for (uint32_t i = 0; i < leases.size(); i++) {
        LoadStep::Lease & lease     = leases[i];
        const int         precision = static_cast<int>(lease.key.precision);
        const SlotRef     slot      = cache_.find(lease.key);
        // A copy that is leaving is still held, by another step or by reads in flight; this one streams it.
        if (slot && !load_of(slot).is_leaving()) {
            cache_.pin(slot);
            lease.slot = slot;
            lease.hit  = load_of(slot).is_ready();
            judge_wanted(slot);
            if (load_of(slot).is_ahead && !lease.hit) {
                promoted.push_back({i, {}});
            }
            load_of(slot).is_ahead = false;
        } else {
            missing.push_back(i);
        }
        (lease.hit ? stats_.n_hits : stats_.n_misses)[precision]++;
        stats_.wanted_bytes += lease.hit ? 0 : layouts_.of(lease.key).n_bytes();
        state.request_idxs[i].fill(-1);
    }
    if (!leases.empty()) {
        disprove_guesses(leases[0].key.layer_idx);
    }
    for (const uint32_t i : missing) {
        leases[i].slot = admit_wanted(leases[i].key, admission);
        if (leases[i].slot) {
            cache_.pin(leases[i].slot);
        }
        stats_.n_streamed += leases[i].slot ? 0 : 1;
    }

    // Part by part, so that what is used first arrives first.
    ReadOrder order;
    order.step_no = step_no;
    for (const uint32_t part_idx : part_order) {
        for (Promoted & p : promoted) { // first: some of it was read
            p.orders[part_idx] = order;
            order.rank++;
        }
        for (const uint32_t i : missing) {
            const LoadStep::Lease & lease = leases[i];
            if (lease.slot) {
                queue_part(lease.slot, lease.key, part_idx, order);
            } else {
                StreamRequest request;
                request.extent    = extent_of_(lease.key, part_idx);
                request.order     = order;
                request.part_idx  = part_idx;
                request.precision = lease.key.precision;

                state.request_idxs[i][part_idx] = ring_.push(request);
            }
            order.rank++;
        }
    }
    for (const Promoted & p : promoted) {
        queue_.promote(leases[p.lease_idx].slot, p.orders);
    }
    note_free();
#ifndef NDEBUG
    check_reads_ahead();
#endif
}

void Loader::Impl::note_wanted(const std::vector<LoadStep::Lease> & leases) {
    if (leases.empty()) {
        return;
    }
    constexpr double alpha = 0.02; // a few tokens
    const ExpertKey  first = leases[0].key;
    for (int precision = 0; precision < n_precisions; precision++) {
        if (!layouts_.has(first.layer_idx, static_cast<Precision>(precision))) {
            continue;
        }
        const uint32_t class_idx = layouts_.of({first.layer_idx, 0, static_cast<Precision>(precision)}).class_idx;
        const auto     n         = std::count_if(leases.begin(), leases.end(), [=](const LoadStep::Lease & lease) {
            return lease.key.precision == static_cast<Precision>(precision);
        });
        // A batch wants more, but nothing is read ahead for large ones.
        const auto n_token = std::min<uint32_t>(static_cast<uint32_t>(n), layouts_.classes[class_idx].max_n_used);
        n_wanted_[class_idx] += alpha * (n_token - n_wanted_[class_idx]);
    }
}

void Loader::Impl::note_free() {
    if (queue_.n_wanted() == 0) {
        budget_.on_free(Timeline::now_us());
    }
}

SlotRef Loader::Impl::admit(ExpertKey key, Admission admission) {
    if (cache_.find(key)) {
        return {};
    }
    const SlotRef slot = cache_.insert(key, admission);
    if (!slot) {
        return {};
    }
    SlotLoad & load = load_of(slot);
    if (load.is_ready()) { // the evicted copy
        stats_.resident_bytes[static_cast<int>(layouts_.classes[static_cast<size_t>(slot.class_idx)].precision)] -=
            load.n_bytes;
    }
    judge_unwanted(load, 0);
    load          = {};
    load.occupied = true;
    load.n_bytes  = layouts_.of(key).n_bytes();
    cache_.pin(slot); // the loader's own, until the last read is done
    return slot;
}

void Loader::Impl::queue_part(SlotRef slot, ExpertKey key, uint32_t part_idx, ReadOrder order) {
    const FileExtent extent = extent_of_(key, part_idx);
    assert(extent.n_bytes > 0 && extent.n_bytes == layouts_.of(key).parts[part_idx].n_bytes);
    const ReadTarget target{slot, -1, part_idx, key.precision};
    const uint32_t   n           = queue_.push(extent, slot_data(slot, key, part_idx), target, order);
    SlotLoad &       load        = load_of(slot);
    load.n_pieces_left[part_idx] = n;
    load.n_left += n;
}

Loader::Impl::PartView Loader::Impl::view_part(const LoadStep::Lease & lease, int32_t request_idx,
                                               uint32_t part_idx) const {
    if (lease.slot) {
        const SlotLoad & load = load_of(lease.slot);
        if (load.part_failed[part_idx]) {
            return {PartState::failed, nullptr, &load.status};
        }
        return {load.is_ready(part_idx) ? PartState::ready : PartState::pending,
                slot_data(lease.slot, lease.key, part_idx), nullptr};
    }
    if (request_idx < 0) {
        return {};
    }
    const StreamRequest & request = ring_.at(request_idx);
    if (request.failed) {
        return {PartState::failed, nullptr, &request.status};
    }
    return {request.is_ready() ? PartState::ready : PartState::pending, request.data, nullptr};
}

void Loader::Impl::drop_request(int32_t request_idx) {
    StreamRequest & request = ring_.at(request_idx);
    if (request.n_pieces_left > 0) {
        request.n_pieces_left -= queue_.cancel(request_idx);
    }
    if (request.n_pieces_left > 0) {
        request.abandoned = true;
    } else {
        ring_.erase(request_idx);
    }
}

void Loader::Impl::unpin(SlotRef slot) {
    cache_.unpin(slot);
    if (cache_.n_pins(slot) == 0 && load_of(slot).is_leaving()) {
        evict(slot);
    }
}

void Loader::Impl::evict(SlotRef slot) {
    SlotLoad & load = load_of(slot);
    if (load.is_ready()) {
        stats_.resident_bytes[static_cast<int>(cache_.key_of(slot).precision)] -= load.n_bytes;
    }
    judge_unwanted(load, 0);
    load = {};
    cache_.erase(slot);
}

} // namespace hobbit
