#include "cache/invariant.h"
#include "loader/loader_impl.h"

#include <algorithm>

namespace hobbit {

void Loader::Impl::check_invariants() const {
    cache_.check_invariants();
    ring_.check_invariants();

    check_reads_ahead();

    // Pieces that are queued or in flight, by where they go.
    std::vector<std::vector<SlotLoad>> slot_pieces;
    std::vector<uint32_t>              stream_pieces;
    for (const auto & loads : loads_) {
        slot_pieces.emplace_back(loads.size());
    }
    for (const ReadPiece & piece : queue_.pieces()) {
        if (piece.target.slot) {
            slot_pieces[static_cast<size_t>(piece.target.slot.class_idx)]
                       [static_cast<size_t>(piece.target.slot.slot_idx)]
                           .n_pieces_left[piece.target.part_idx]++;
        } else {
            const size_t request_idx = static_cast<size_t>(piece.target.request_idx);
            stream_pieces.resize(std::max(stream_pieces.size(), request_idx + 1));
            stream_pieces[request_idx]++;
        }
    }
    uint64_t resident_bytes[n_precisions] = {};
    for (size_t c = 0; c < loads_.size(); c++) {
        uint32_t n_occupied = 0;
        for (size_t i = 0; i < loads_[c].size(); i++) {
            const SlotLoad & load = loads_[c][i];
            const SlotRef    slot{static_cast<int32_t>(c), static_cast<int32_t>(i)};
            uint32_t         n_left = 0;
            for (int part_idx = 0; part_idx < max_parts; part_idx++) {
                check_invariant(load.n_pieces_left[part_idx] == slot_pieces[c][i].n_pieces_left[part_idx],
                                "a slot waits for exactly the reads that go to it");
                n_left += load.n_pieces_left[part_idx];
            }
            check_invariant(n_left == load.n_left, "a slot's parts and its total agree");
            if (!load.occupied) {
                check_invariant(load.n_left == 0 && !load.failed, "a free slot is not being loaded");
                continue;
            }
            n_occupied++;
            check_invariant(cache_.find(cache_.key_of(slot)) == slot, "a load's slot is occupied");
            check_invariant(cache_.n_pins(slot) > 0 || load.is_ready(), "a copy that is not complete is pinned");
            resident_bytes[static_cast<int>(cache_.key_of(slot).precision)] += load.is_ready() ? load.n_bytes : 0;
        }
        check_invariant(n_occupied + cache_.n_free(static_cast<int32_t>(c)) == loads_[c].size(),
                        "loads and cache agree on the occupied slots");
    }
    for (int precision = 0; precision < n_precisions; precision++) {
        check_invariant(resident_bytes[precision] == stats_.resident_bytes[precision], "resident bytes add up");
    }
    size_t n_stream_pieces = 0;
    for (const int32_t idx : ring_.requests()) {
        const size_t   i = static_cast<size_t>(idx);
        const uint32_t n = i < stream_pieces.size() ? stream_pieces[i] : 0;
        check_invariant(n == ring_.at(idx).n_pieces_left, "a stream buffer waits for exactly the reads that go to it");
        n_stream_pieces += n;
    }
    for (const uint32_t n : stream_pieces) {
        n_stream_pieces -= n;
    }
    check_invariant(n_stream_pieces == 0, "every streamed read has a request");
}

void Loader::Impl::check_reads_ahead() const {
    check_invariant(queue_.n_ahead_in_flight() <= max_ahead_in_flight_,
                    "reads ahead leave the drive to what is wanted");
    uint32_t                 n_wanted = 0;
    std::vector<std::byte *> targets;
    for (const ReadPiece & piece : queue_.pieces()) {
        n_wanted += piece.order.is_ahead ? 0 : 1;
        targets.push_back(piece.dst);
    }
    check_invariant(n_wanted == queue_.n_wanted(), "wanted reads are counted");
    std::sort(targets.begin(), targets.end());
    check_invariant(std::adjacent_find(targets.begin(), targets.end()) == targets.end(),
                    "nothing is read twice at once");
    for (const ReadPiece & piece : queue_.queued_pieces()) {
        if (piece.target.slot) {
            const SlotLoad & load = load_of(piece.target.slot);
            check_invariant(!load.is_cancelled, "of a cancelled guess nothing is queued");
            check_invariant(piece.order.is_ahead == load.is_ahead, "a wanted copy's reads are promoted");
        }
    }
    uint64_t unjudged_bytes = 0;
    for (size_t c = 0; c < loads_.size(); c++) {
        for (size_t i = 0; i < loads_[c].size(); i++) {
            const SlotLoad & load = loads_[c][i];
            const SlotRef    slot{static_cast<int32_t>(c), static_cast<int32_t>(i)};
            unjudged_bytes += load.prefetched ? load.n_bytes : 0;
            const bool is_listed =
                std::find(reading_ahead_.begin(), reading_ahead_.end(), slot) != reading_ahead_.end();
            check_invariant(is_listed == (load.prefetched && load.n_left > 0), "guesses in progress are listed");
            const uint32_t n_own_pins = load.n_left > 0 ? 1 : 0;
            check_invariant(!load.prefetched || cache_.n_pins(slot) == n_own_pins + load.n_borrows,
                            "a copy that a step holds is no guess any more");
        }
    }
    check_invariant(stats_.prefetched_bytes == unjudged_bytes + stats_.prefetch_useful_bytes +
                                                   stats_.prefetch_late_bytes + stats_.prefetch_wasted_bytes +
                                                   stats_.prefetch_cancelled_bytes,
                    "bytes read ahead are judged once");
}

} // namespace hobbit
