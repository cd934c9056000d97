#include "loader/read_queue.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

struct ReadQueue::Later {
    const std::vector<ReadPiece> & pieces;

    bool operator()(int32_t a, int32_t b) const {
        return pieces[static_cast<size_t>(b)].order < pieces[static_cast<size_t>(a)].order;
    }
};

ReadQueue::ReadQueue(uint64_t align, uint64_t max_read_bytes)
    : align_(align), max_read_bytes_(std::max(align_down(max_read_bytes, align), align)) {}

uint32_t ReadQueue::push(const FileExtent & extent, std::byte * dst, const ReadTarget & target, ReadOrder order) {
    const bool     congruent = (reinterpret_cast<uintptr_t>(dst) - extent.offset) % align_ == 0;
    const uint64_t end       = extent.offset + extent.n_bytes;
    order.piece_idx          = 0;
    for (uint64_t offset = extent.offset; offset < end;) {
        // Cut at multiples of the alignment: only the first and the last piece touch bytes beside their own.
        const uint64_t cut = std::min(align_down(offset, align_) + max_read_bytes_, end);
        ReadPiece      piece;
        piece.target    = target;
        piece.order     = order;
        piece.extent    = {extent.file_idx, offset, cut - offset};
        piece.dst       = dst + (offset - extent.offset);
        piece.congruent = congruent;
        enqueue(piece);
        order.piece_idx++;
        offset = cut;
    }
    return order.piece_idx;
}

void ReadQueue::enqueue(const ReadPiece & piece) {
    if (free_.empty()) {
        free_.push_back(static_cast<int32_t>(pieces_.size()));
        pieces_.emplace_back();
    }
    const int32_t idx = free_.back();
    free_.pop_back();
    pieces_[static_cast<size_t>(idx)] = piece;
    n_wanted_ += piece.order.is_ahead ? 0 : 1;
    queued_.push_back(idx);
    std::push_heap(queued_.begin(), queued_.end(), Later{pieces_});
}

void ReadQueue::retry(ReadPiece piece) {
    piece.is_retry = true;
    piece.next     = -1;
    enqueue(piece);
}

int32_t ReadQueue::take_first() {
    std::pop_heap(queued_.begin(), queued_.end(), Later{pieces_});
    const int32_t idx = queued_.back();
    queued_.pop_back();
    return idx;
}

bool ReadQueue::can_merge(const ReadPiece & last, const ReadPiece & next, uint64_t n_bytes) const {
    // A retry goes alone, so that one bad block fails only the part that it lies in.
    return last.congruent && next.congruent && !last.is_retry && !next.is_retry &&
           last.order.is_ahead == next.order.is_ahead && // what is wanted does not wait for a guess
           last.extent.file_idx == next.extent.file_idx &&
           last.extent.offset + last.extent.n_bytes == next.extent.offset && next.extent.offset % align_ == 0 &&
           n_bytes + next.extent.n_bytes <= max_read_bytes_;
}

ReadOp ReadQueue::pop() {
    assert(!empty());
    int32_t           idx   = take_first();
    const ReadPiece & first = pieces_[static_cast<size_t>(idx)];
    ReadOp            op;
    op.tag       = static_cast<uint64_t>(idx);
    op.file_idx  = first.extent.file_idx;
    op.offset    = first.extent.offset;
    op.has_slack = first.congruent;
    op.segments.push_back({first.dst, first.extent.n_bytes});
    for (uint64_t n_bytes = first.extent.n_bytes; !queued_.empty();) {
        ReadPiece &       last = pieces_[static_cast<size_t>(idx)];
        const ReadPiece & next = pieces_[static_cast<size_t>(queued_.front())];
        if (!can_merge(last, next, n_bytes)) {
            break;
        }
        op.segments.push_back({next.dst, next.extent.n_bytes});
        n_bytes += next.extent.n_bytes;
        idx       = take_first();
        last.next = idx;
    }
    n_in_flight_++;
    n_ahead_in_flight_ += pieces_[op.tag].order.is_ahead ? 1 : 0;
    return op;
}

void ReadQueue::finish(uint64_t tag, std::vector<ReadPiece> & done) {
    assert(n_in_flight_ > 0);
    n_in_flight_--;
    n_ahead_in_flight_ -= pieces_[tag].order.is_ahead ? 1 : 0;
    for (int32_t idx = static_cast<int32_t>(tag); idx >= 0;) {
        const ReadPiece & piece = pieces_[static_cast<size_t>(idx)];
        done.push_back(piece);
        n_wanted_ -= piece.order.is_ahead ? 0 : 1;
        free_.push_back(idx);
        idx = piece.next;
    }
}

template <typename Matches, typename Drop> void ReadQueue::drop_queued(Matches matches, Drop drop) {
    const auto at  = [this](int32_t idx) -> const ReadPiece & { return pieces_[static_cast<size_t>(idx)]; };
    const auto end = std::partition(queued_.begin(), queued_.end(), [&](int32_t idx) { return !matches(at(idx)); });
    for (auto it = end; it != queued_.end(); ++it) {
        n_wanted_ -= at(*it).order.is_ahead ? 0 : 1;
        drop(at(*it));
    }
    free_.insert(free_.end(), end, queued_.end());
    queued_.erase(end, queued_.end());
    std::make_heap(queued_.begin(), queued_.end(), Later{pieces_});
}

uint32_t ReadQueue::cancel(int32_t request_idx) {
    uint32_t n = 0;
    drop_queued([=](const ReadPiece & p) { return !p.target.slot && p.target.request_idx == request_idx; },
                [&](const ReadPiece &) { n++; });
    return n;
}

uint64_t ReadQueue::cancel(SlotRef slot, uint32_t * n_pieces_left) {
    uint64_t n_bytes = 0;
    drop_queued([=](const ReadPiece & p) { return p.target.slot == slot; },
                [&](const ReadPiece & p) {
                    n_pieces_left[p.target.part_idx]--;
                    n_bytes += p.extent.n_bytes;
                });
    return n_bytes;
}

void ReadQueue::promote(SlotRef slot, const ReadOrder * orders) {
    for (const int32_t idx : queued_) {
        ReadPiece & piece = pieces_[static_cast<size_t>(idx)];
        if (piece.target.slot == slot && piece.order.is_ahead) {
            const uint32_t piece_idx = piece.order.piece_idx;
            piece.order              = orders[piece.target.part_idx];
            piece.order.piece_idx    = piece_idx;
            n_wanted_++;
        }
    }
    std::make_heap(queued_.begin(), queued_.end(), Later{pieces_});
}

void ReadQueue::clear() {
    drop_queued([](const ReadPiece &) { return true; }, [](const ReadPiece &) {});
}

std::vector<ReadPiece> ReadQueue::queued_pieces() const {
    std::vector<ReadPiece> out;
    for (const int32_t idx : queued_) {
        out.push_back(pieces_[static_cast<size_t>(idx)]);
    }
    return out;
}

std::vector<ReadPiece> ReadQueue::pieces() const {
    std::vector<bool> is_free(pieces_.size(), false);
    for (const int32_t idx : free_) {
        is_free[static_cast<size_t>(idx)] = true;
    }
    std::vector<ReadPiece> out;
    for (size_t i = 0; i < pieces_.size(); i++) {
        if (!is_free[i]) {
            out.push_back(pieces_[i]);
        }
    }
    return out;
}

} // namespace hobbit
