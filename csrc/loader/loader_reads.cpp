// Reads go to the reader, and what comes back is settled: with the slot or the stream buffer that it was for.
#include "loader/loader_impl.h"

#include "base/timeline.h"

#include <utility>

namespace hobbit {

std::vector<ReadOp> Loader::Impl::next_ops() {
    std::vector<ReadOp> ops;
    if (closing_) {
        return ops;
    }
    for (int32_t idx = ring_.assign_next(); idx >= 0; idx = ring_.assign_next()) {
        StreamRequest &  request = ring_.at(idx);
        const ReadTarget target{{}, idx, request.part_idx, request.precision};
        request.n_pieces_left = queue_.push(request.extent, request.data, target, request.order);
    }
    // What is wanted is behind nothing but the reads in flight, and few of those read ahead.
    while (!queue_.empty() ||
           (queue_.n_in_flight() < max_ahead_in_flight_ && (queue_guess() || queue_upgrade() || queue_fill()))) {
        const bool is_ahead = queue_.first_order().is_ahead;
        if (queue_.n_in_flight() >= (is_ahead ? max_ahead_in_flight_ : max_in_flight_)) {
            break;
        }
        ops.push_back(queue_.pop());
    }
    if (!ops.empty()) {
        stats_.n_reads += ops.size();
        budget_.on_submit(Timeline::now_us());
    }
    return ops;
}

void Loader::Impl::submit(std::vector<ReadOp> ops) {
    if (!ops.empty()) {
        reader_.submit(std::move(ops));
    }
}

void Loader::Impl::on_completion(uint64_t tag, const Status & status) {
    std::vector<ReadOp> ops;
    {
        MutexLock lock(mu_);
        done_.clear();
        queue_.finish(tag, done_);
        uint64_t n_bytes = 0;
        for (const ReadPiece & piece : done_) {
            n_bytes += piece.extent.n_bytes;
            settle(piece, status);
        }
        budget_.on_complete(Timeline::now_us(), n_bytes, queue_.n_in_flight());
        note_free();
        ops = next_ops();
    }
    changed_.notify_all();
    submit(std::move(ops));
}

void Loader::Impl::settle(const ReadPiece & piece, const Status & status) {
    const bool is_wanted =
        piece.target.slot ? !load_of(piece.target.slot).is_cancelled : !ring_.at(piece.target.request_idx).abandoned;
    if (!status.ok() && !piece.is_retry && is_wanted && !closing_) {
        stats_.n_retries++;
        ReadPiece again = piece;
        // It may have been promoted while it was in flight.
        again.order.is_ahead = piece.target.slot && load_of(piece.target.slot).is_ahead;
        queue_.retry(again);
        return;
    }
    if (status.ok()) {
        stats_.read_bytes[static_cast<int>(piece.target.precision)] += piece.extent.n_bytes;
    }
    if (piece.target.slot) {
        settle_slot(piece, status);
    } else {
        settle_stream(piece, status);
    }
}

void Loader::Impl::settle_slot(const ReadPiece & piece, const Status & status) {
    SlotLoad & load = load_of(piece.target.slot);
    load.n_pieces_left[piece.target.part_idx]--;
    load.n_left--;
    if (!status.ok()) {
        load.part_failed[piece.target.part_idx] = true;
        if (!load.failed) {
            load.failed = true;
            load.status = status;
        }
    }
    if (load.n_left == 0) {
        stop_reading_ahead(piece.target.slot);
        if (load.is_ready()) {
            stats_.resident_bytes[static_cast<int>(piece.target.precision)] += load.n_bytes;
        }
        unpin(piece.target.slot);
    }
}

void Loader::Impl::settle_stream(const ReadPiece & piece, const Status & status) {
    StreamRequest & request = ring_.at(piece.target.request_idx);
    request.n_pieces_left--;
    if (!status.ok() && !request.failed) {
        request.failed = true;
        request.status = status;
    }
    if (request.abandoned && request.n_pieces_left == 0) {
        ring_.erase(piece.target.request_idx);
    }
}

} // namespace hobbit
