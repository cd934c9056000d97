// Brings experts into memory: what is missing is read, several reads at once, each matrix usable as it arrives.
//
// A miss gets a slot of the cache if the eviction policy grants one, and otherwise streams: its matrices pass one by
// one through a small ring of buffers, in the order they are needed, and are gone after use. So a layer can be computed
// whatever the size of the cache (even none), and a long prompt does not flush it.
//
// Locks: `mu_` guards the cache, the policy, the load states and the queue; it is never held while reading, computing
// or calling the reader.
#pragma once

#include "base/mutex.h"
#include "base/status.h"
#include "base/types.h"
#include "cache/arena.h"
#include "cache/committer.h"
#include "cache/copy_layout.h"
#include "cache/expert_cache.h"
#include "io/reader.h"
#include "policy/eviction.h"
#include "policy/precision.h"
#include "policy/score_source.h"

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

struct LoaderOptions {
    uint64_t     expert_memory_bytes = 0;   // arenas of all slots together
    double       lo_share            = 0.5; // of expert_memory_bytes, for lo copies (if the model has any)
    uint64_t     stream_bytes   = 64 << 20; // ring of stream buffers; at least three of the largest matrix are made
    uint64_t     max_read_bytes = 2 << 20;  // longer extents are read in pieces of this, in parallel
    bool         fill           = false;    // read what fits as a whole (a class with a slot for every copy) at once
    bool         commit_ahead   = false;    // the memory of the slots, in the background, before experts come
    EvictionSpec eviction;
    // Instead of `eviction`, if given: a policy that may wait, asked under no lock.
    std::shared_ptr<ScoreSource> score_source;
    MakeArena                    make_arena; // of slots and stream buffers; empty: ordinary memory
};

struct LoaderStats {
    uint64_t n_hits[n_precisions]         = {}; // an expert wanted by a layer step was resident and complete
    uint64_t n_misses[n_precisions]       = {}; // ... was not
    uint64_t n_streamed                   = 0;  // misses that got no slot
    uint64_t read_bytes[n_precisions]     = {}; // of expert data, alignment padding excluded
    uint64_t n_reads                      = 0;
    uint64_t n_retries                    = 0;
    uint64_t n_evictions                  = 0;
    uint64_t n_prefetched                 = 0; // copies begun to be read ahead on a guess ...
    uint64_t n_prefetch_used              = 0; // ... wanted by a step before they went ...
    uint64_t n_prefetch_late              = 0; // ... of those, before they were complete ...
    uint64_t n_prefetch_wasted            = 0; // ... and gone before anybody wanted them
    uint64_t prefetched_bytes             = 0; // of all those copies; each is counted once below when it is judged:
    uint64_t prefetch_useful_bytes        = 0; // complete when they were wanted
    uint64_t prefetch_late_bytes          = 0; // wanted while they were read
    uint64_t prefetch_wasted_bytes        = 0; // read (or in flight) for nothing
    uint64_t prefetch_cancelled_bytes     = 0; // not read any more, since the guess was wrong
    uint64_t n_upgraded                   = 0; // hi copies begun to be read for experts that were served in lo
    uint64_t wanted_bytes                 = 0; // of copies that were not complete when a step wanted them
    uint64_t stall_us                     = 0; // compute waited for the drive
    uint64_t resident_bytes[n_precisions] = {};
};

// What a look-ahead is chosen by. Means over the last steps, 0 until they were measured.
struct PrefetchState {
    double   read_bytes_s = 0; // of the drive while it is busy
    double   step_us      = 0; // from step to step, waits included
    double   window_us    = 0; // of that, without a read that a step waits for
    uint64_t n_late       = 0; // as in LoaderStats
    uint64_t n_wasted     = 0;
};

// A matrix of a step's expert.
struct LeasePart {
    uint32_t lease_idx = 0;
    uint32_t part_idx  = 0;
};

class LoadStep;

class Loader {
  public:
    // Where the bytes of a copy's matrix are; file_idx is the reader's. Must be pure.
    using ExtentOf = std::function<FileExtent(ExpertKey key, uint32_t part_idx)>;

    // `layouts` and `reader` are borrowed for the loader's life. `n_expert` is [n_layers].
    // Throws std::bad_alloc, std::invalid_argument (unknown eviction policy or parameter).
    Loader(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert, ExtentOf extent_of, Reader & reader,
           const LoaderOptions & options);
    // Waits for the reads in flight. REQUIRES: no LoadStep lives.
    ~Loader();
    Loader(const Loader &)             = delete;
    Loader & operator=(const Loader &) = delete;

    // Tells the eviction policy what a layer routed; to be followed by begin() for that layer.
    void on_route(const Routing & routing);

    // Tells the eviction policy what the next token will probably use of the layer that routed last, [n_expert] of it;
    // see EvictionPolicy::on_next_token.
    void on_next_token(uint16_t layer_idx, const std::vector<float> & chances);

    // Tells the eviction policy what is expected; see EvictionPolicy::on_predict.
    void on_predict(uint16_t source_layer_idx, const std::vector<ExpectedUse> & uses);

    // The best copy of each expert that is resident and complete. expert_idxs [n], best [n].
    void find_resident(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best) const;
    // Likewise, and where there is none the best copy that is being read: its bytes are spent, and it comes sooner than
    // any that is yet to be asked for.
    void find_coming(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best) const;

    // Whether every copy of the model is complete and in its own slot (ExpertCache::own_slot): nothing goes any more,
    // but by clear(). Never with lo copies, where a policy has a choice.
    bool holds_all() const;

    // Pins the copies that are resident, starts reading the others. `keys` are distinct, of one layer, in the order in
    // which they will be needed; `part_order` lists that layer's part indices in the order of use (for each precision
    // the same). Never waits for the drive.
    std::unique_ptr<LoadStep> begin(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order,
                                    Admission admission);

    // Pins those of `keys` that are resident and complete, in a step that has leases for these alone; nothing is read,
    // and nothing counted: a copy that was read on a guess stays one.
    std::unique_ptr<LoadStep> pin_resident(const std::vector<ExpertKey> & keys);

    // Copies that the coming steps will probably want, the likeliest first; distinct. Those that are resident are kept
    // if at all possible; the others are read, one after the other, while the drive has nothing else to do, as far as
    // it will bring them in time, into slots from which the least valued copies go. Replaces the list given before:
    // what of that is being read goes on if it is in this one, and is given up between two reads otherwise. A step ends
    // the guesses about its layer. `part_order` as for begin().
    void prefetch(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order);

    // Hi copies of experts that a step serves in lo; before its begin(). They are read while the drive has nothing else
    // to do, the latest first, as many bytes as the idle windows so far would have brought, in place of copies that are
    // worth less.
    void upgrade(const std::vector<ExpertKey> & keys);

    // Copies to be read in the background, in this order, as far as slots are free: nothing is evicted for them, and as
    // long as no token chose them, the last of them go first. Those that the model does not have are left out.
    void warm(const std::vector<ExpertKey> & keys);

    // The complete copies, those most worth keeping first: what warm() would be given by the next run.
    std::vector<ExpertKey> hot_set() const;

    PrefetchState prefetch_state() const;

    // A new sequence begins.
    void reset_sequence();

    const std::byte * arena(int32_t class_idx) const { return arenas_[class_idx].data(); }
    uint32_t          n_slots(int32_t class_idx) const;
    // Memory of the stream buffers that a loader with this `stream_bytes` option would make.
    static uint64_t stream_ring_bytes(const CopyLayouts & layouts, uint32_t align, uint64_t stream_bytes);

    uint64_t arena_bytes() const;    // slots
    uint64_t unfilled_bytes() const; // of these, what is not in RAM yet
    uint64_t stream_bytes() const;   // stream buffers

    LoaderStats stats() const;

    // Whether each expert is resident: [n_expert] of 0 absent, 1 loading, 2 ready.
    std::vector<uint8_t> residency(uint16_t layer_idx, Precision precision) const;

    // Recomputes counters and cross-checks cache, loads and buffers; aborts with a message on a difference.
    void check_invariants() const;

    // Drops every unpinned copy (a benchmark's cold start). REQUIRES: no graph is computed.
    void clear();

  private:
    friend class LoadStep;
    struct Impl;
    std::vector<Arena>         arenas_; // [class]
    std::unique_ptr<Committer> committer_;
    std::unique_ptr<Impl>      impl_;
};

// The experts of one layer for one batch, pinned until it is destroyed. Used by one thread.
class LoadStep {
  public:
    ~LoadStep(); // unpins; reads still in flight go on and keep their own hold on slot or buffer

    struct Lease {
        ExpertKey key;
        SlotRef   slot;        // none: streamed
        bool      hit = false; // it was complete when the step began
    };
    const std::vector<Lease> & leases() const { return leases_; }
    bool                       all_hit() const;

    // True when this part can be computed now.
    bool ready(uint32_t lease_idx, uint32_t part_idx) const;

    // Start of the part's data; valid once it is ready, until release_part() or the end of the step.
    const std::byte * data(uint32_t lease_idx, uint32_t part_idx) const;

    // Blocks until at least one of `wanted` (lease indices) has `part_idx`; moves all that have from `wanted` to
    // `arrived`. An error if one of them cannot be read (after one retry): the message has path, offset and errno.
    // REQUIRES: `wanted` is not empty.
    Status wait_any(uint32_t part_idx, std::vector<uint32_t> & wanted, std::vector<uint32_t> & arrived);
    // The same for matrices of any part.
    Status wait_any(std::vector<LeasePart> & wanted, std::vector<LeasePart> & arrived);

    // The part was used and is not needed again in this step; a streamed one gives its buffer back.
    void release_part(uint32_t lease_idx, uint32_t part_idx);

  private:
    friend class Loader;
    LoadStep(Loader::Impl & loader, std::vector<Lease> leases);

    Loader::Impl &     loader_;
    std::vector<Lease> leases_;
    bool               borrows_ = false; // of pin_resident()
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace hobbit
