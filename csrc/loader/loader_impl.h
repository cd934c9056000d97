// What a loader and its steps share.
//
// Why steps cannot wait for each other forever, however small the ring and whatever the number of threads:
//  - Slot loads never wait for a buffer, and every queued read is issued in the end, so whatever has a slot or a
//    buffer arrives by the reads alone (or fails, which ends the wait as well).
//  - Buffers are given out first come, first served over all steps, and a step asks for its parts in their order of
//    use. So when a step holds a buffer for part p of some copy, all that it asked for before has had a buffer: it
//    reaches the use of that part, and release_part(), without a further buffer.
//  - Hence a step that holds a buffer always goes on until it holds none, and the longest-waiting request gets the
//    first buffer that comes free.
// What this asks of a caller: a thread has one step at a time, takes the parts in `part_order`, waits for all copies
// of a part that it has not used yet (or for them in the order of `keys`), and releases a streamed part before it
// waits again. Or it waits for all parts at once, and releases each as soon as those of the same copy that come before
// it in `part_order` have come as well. While it waits it holds nothing that another step, which holds buffers, may
// wait for (moe/layer_copies.h: buffers of a device).
#pragma once

#include "loader/loader.h"
#include "loader/prefetch_budget.h"
#include "loader/read_queue.h"
#include "loader/stream_ring.h"
#include "loader/upgrade_budget.h"

#include <atomic>

namespace hobbit {

// The progress of the copy in a slot.
struct SlotLoad {
    bool     occupied                 = false;
    bool     is_ahead                 = false; // its queued pieces are of the class that waits for what is wanted
    bool     prefetched               = false; // read ahead on a guess, and no step wanted it yet
    bool     is_cancelled             = false; // the guess was wrong: leaves with the last of its reads
    uint32_t n_pieces_left[max_parts] = {};    // [part]
    bool     part_failed[max_parts]   = {};
    uint32_t n_left                   = 0; // pieces of all parts; the loader holds a pin of its own while > 0
    uint32_t n_borrows                = 0; // pins of pin_resident(), which say nothing about what is wanted
    bool     failed                   = false;
    uint64_t n_bytes                  = 0; // of the copy, without padding
    double   prior                    = 0; // worth of a copy that was read before any token chose it
    Status   status;                       // of the first read that failed

    bool is_leaving() const { return failed || is_cancelled; }
    bool is_ready() const { return occupied && n_left == 0 && !is_leaving(); }
    bool is_coming() const { return occupied && n_left > 0 && !is_leaving(); }
    bool is_ready(uint32_t part_idx) const { return n_pieces_left[part_idx] == 0 && !part_failed[part_idx]; }
};

struct LoadStep::State {
    // [lease][part]: the request of a part that is streamed and not yet released, or -1.
    std::vector<std::array<int32_t, max_parts>> request_idxs;
    std::vector<LeasePart>                      wanted, arrived; // of wait_any()
};

struct Loader::Impl {
    Impl(const CopyLayouts & layouts, const std::vector<uint32_t> & n_expert, const std::vector<uint32_t> & n_slots,
         const std::vector<Arena> & arenas, ExtentOf extent_of, Reader & reader, const LoaderOptions & options);
    ~Impl();

    enum class PartState : uint8_t { pending, ready, failed };
    struct PartView {
        PartState         state  = PartState::pending;
        const std::byte * data   = nullptr;
        const Status *    status = nullptr; // if failed
    };

    // Pins what is resident, gives slots to what is not, queues the reads. Fills in the leases.
    void     open_step(std::vector<LoadStep::Lease> & leases, LoadStep::State & state,
                       const std::vector<uint32_t> & part_order, Admission admission) HOBBIT_REQUIRES(mu_);
    PartView view_part(const LoadStep::Lease & lease, int32_t request_idx, uint32_t part_idx) const
        HOBBIT_REQUIRES(mu_);
    // Notes the experts' copies that count, the better one of two, over what was noted before.
    void add_copies(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n, Resident * best,
                    bool (*counts)(const SlotLoad &)) const HOBBIT_REQUIRES(mu_);
    // Gives up a streamed part, read or not.
    void drop_request(int32_t request_idx) HOBBIT_REQUIRES(mu_);
    // A copy that failed or was cancelled leaves with its last pin, so that the next step reads it anew.
    void unpin(SlotRef slot) HOBBIT_REQUIRES(mu_);
    // Replaces the guesses: soft pins for what is resident, the rest to be read; what is being read and not among them
    // is given up.
    void set_guesses(const std::vector<ExpertKey> & keys, const std::vector<uint32_t> & part_order)
        HOBBIT_REQUIRES(mu_);
    void add_upgrades(const std::vector<ExpertKey> & keys) HOBBIT_REQUIRES(mu_);
    // Takes out an unpinned copy.
    void evict(SlotRef slot) HOBBIT_REQUIRES(mu_);
    // The operations that the reader has room for. Submit them after unlocking.
    std::vector<ReadOp> next_ops() HOBBIT_REQUIRES(mu_);
    void                submit(std::vector<ReadOp> ops) HOBBIT_EXCLUDES(mu_);
    void                check_invariants() const HOBBIT_REQUIRES(mu_);

    void             set_scores(ScoreTable scores) HOBBIT_EXCLUDES(mu_);
    bool             holds_all() const HOBBIT_REQUIRES(mu_);
    double           worth(ExpertKey key) const HOBBIT_REQUIRES(mu_); // of keeping a copy
    SlotLoad &       load_of(SlotRef slot) HOBBIT_REQUIRES(mu_);
    const SlotLoad & load_of(SlotRef slot) const HOBBIT_REQUIRES(mu_);
    std::byte *      slot_data(SlotRef slot, ExpertKey key, uint32_t part_idx) const;

    const CopyLayouts &        layouts_;
    const std::vector<Arena> & arenas_; // [class]
    const ExtentOf             extent_of_;
    // If it is given, policy_ is the table of its scores. Called without mu_.
    const std::shared_ptr<ScoreSource> score_source_;
    Reader &                           reader_;
    std::atomic<bool>                  holds_all_{false}; // once it did

    const uint32_t max_in_flight_;       // operations handed to the reader; the rest can still be cancelled
    const uint32_t max_ahead_in_flight_; // ... that read ahead: at most half of the reader's threads

    mutable Mutex                             mu_;
    CondVar                                   changed_; // a part became ready or failed, or the last read ended
    std::unique_ptr<EvictionPolicy> policy_   HOBBIT_GUARDED_BY(mu_);
    ExpertCache cache_                        HOBBIT_GUARDED_BY(mu_);
    std::vector<std::vector<SlotLoad>> loads_ HOBBIT_GUARDED_BY(mu_); // [class][slot]
    ReadQueue queue_                          HOBBIT_GUARDED_BY(mu_);
    StreamRing ring_                          HOBBIT_GUARDED_BY(mu_);
    LoaderStats stats_                        HOBBIT_GUARDED_BY(mu_);     // without n_evictions
    std::vector<ReadPiece> done_              HOBBIT_GUARDED_BY(mu_);     // of the completion at work
    uint64_t n_steps_                         HOBBIT_GUARDED_BY(mu_) = 0; // begun
    uint64_t n_live_steps_                    HOBBIT_GUARDED_BY(mu_) = 0;
    std::vector<ExpertKey> guesses_           HOBBIT_GUARDED_BY(mu_); // copies to be read ahead, the likeliest first
    size_t next_guess_                        HOBBIT_GUARDED_BY(mu_) = 0; // the first that was not begun
    std::vector<uint32_t> guess_parts_        HOBBIT_GUARDED_BY(mu_);     // their order of use
    std::vector<SlotRef> reading_ahead_       HOBBIT_GUARDED_BY(mu_); // guesses begun, incomplete and not wanted yet
    int64_t guess_bytes_left_                 HOBBIT_GUARDED_BY(mu_) = 0; // of the budget until the next guesses
    std::deque<ExpertKey> upgrades_           HOBBIT_GUARDED_BY(mu_);     // the latest first
    std::vector<double> n_wanted_             HOBBIT_GUARDED_BY(mu_);     // [class] that a layer wants of late
    UpgradeBudget upgrade_budget_             HOBBIT_GUARDED_BY(mu_);
    PrefetchBudget budget_                    HOBBIT_GUARDED_BY(mu_);
    uint64_t n_ahead_                         HOBBIT_GUARDED_BY(mu_) = 0; // copies queued ahead so far
    std::deque<ExpertKey> fill_ HOBBIT_GUARDED_BY(mu_); // to be read when there is nothing to guess either
    bool closing_               HOBBIT_GUARDED_BY(mu_) = false;

  private:
    void    check_reads_ahead() const HOBBIT_REQUIRES(mu_);
    void    start_filling() HOBBIT_EXCLUDES(mu_);
    void    on_completion(uint64_t tag, const Status & status) HOBBIT_EXCLUDES(mu_);
    SlotRef admit(ExpertKey key, Admission admission) HOBBIT_REQUIRES(mu_);
    void    queue_part(SlotRef slot, ExpertKey key, uint32_t part_idx, ReadOrder order) HOBBIT_REQUIRES(mu_);
    SlotRef admit_wanted(ExpertKey key, Admission admission) HOBBIT_REQUIRES(mu_); // at the cost of guesses, if need be
    bool    queue_guess() HOBBIT_REQUIRES(mu_);   // the next of guesses_ that is absent; false: none left, or no budget
    bool    queue_upgrade() HOBBIT_REQUIRES(mu_); // the same of upgrades_
    bool    queue_fill() HOBBIT_REQUIRES(mu_);    // the same of fill_
    SlotRef queue_ahead(ExpertKey key, Admission admission) HOBBIT_REQUIRES(mu_); // none: resident, or no slot for it
    void    judge_wanted(SlotRef slot) HOBBIT_REQUIRES(mu_);
    void    judge_unwanted(SlotLoad & load, uint64_t cancelled_bytes) HOBBIT_REQUIRES(mu_);
    void    stop_reading_ahead(SlotRef slot) HOBBIT_REQUIRES(mu_);
    void    cancel_ahead(SlotRef slot) HOBBIT_REQUIRES(mu_);
    void    give_up(const std::function<bool(SlotRef)> & is_given_up) HOBBIT_REQUIRES(mu_); // of reading_ahead_
    // The layer's own choice is known: guesses about it that are not wanted end here.
    void disprove_guesses(uint16_t layer_idx) HOBBIT_REQUIRES(mu_);
    void note_wanted(const std::vector<LoadStep::Lease> & leases) HOBBIT_REQUIRES(mu_); // in n_wanted_
    void note_free() HOBBIT_REQUIRES(mu_); // tells the budget if nothing is wanted any more
    void settle(const ReadPiece & piece, const Status & status) HOBBIT_REQUIRES(mu_);
    void settle_slot(const ReadPiece & piece, const Status & status) HOBBIT_REQUIRES(mu_);
    void settle_stream(const ReadPiece & piece, const Status & status) HOBBIT_REQUIRES(mu_);
};

} // namespace hobbit
