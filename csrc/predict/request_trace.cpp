#include "predict/request_trace.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace hobbit {

RequestTrace::RequestTrace(const PredictorModel & model, std::shared_ptr<RequestTraces> traces)
    : model_(model), traces_(std::move(traces)) {
    size_t n_cells = 0;
    for (const uint32_t n : model_.n_expert) {
        first_cell_.push_back(n_cells);
        n_cells += n;
    }
    for (std::vector<float> & counts : request_) {
        counts.assign(n_cells, 0.0f);
    }
    begin_matching();
}

RequestTrace::~RequestTrace() { end_request(); }

void RequestTrace::end_request() {
    for (const Phase phase : {Phase::prompt, Phase::decode}) {
        std::vector<float> & counts = request_[static_cast<int>(phase)];
        if (traces_) {
            traces_->insert(phase, counts);
        }
        std::fill(counts.begin(), counts.end(), 0.0f);
    }
}

void RequestTrace::begin_matching() {
    const std::vector<float> & request = request_[static_cast<int>(phase_)];
    known_ = traces_ ? traces_->snapshot(phase_) : std::make_shared<const RequestTraces::Set>();
    dots_.clear();
    for (const auto & trace : *known_) {
        dots_.push_back(std::inner_product(request.begin(), request.end(), trace->counts.begin(), 0.0));
    }
    squares_    = std::inner_product(request.begin(), request.end(), request.begin(), 0.0);
    is_matched_ = false;
}

void RequestTrace::begin_sequence() {
    end_request();
    begin_matching();
}

void RequestTrace::begin_pass(const int32_t *, uint32_t n_tokens) {
    const Phase phase = n_tokens > max_decode_tokens ? Phase::prompt : Phase::decode;
    if (phase == phase_) {
        return;
    }
    if (phase == Phase::prompt) {
        end_request();
    }
    phase_ = phase;
    begin_matching();
}

void RequestTrace::observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    std::vector<float> & request = request_[static_cast<int>(phase_)];
    for (size_t i = 0; i < static_cast<size_t>(n_used) * n_tokens; i++) {
        const size_t cell  = first_cell_[layer_idx] + static_cast<size_t>(expert_idxs[i]);
        float &      count = request[cell];
        squares_ += 2.0 * static_cast<double>(count) + 1.0;
        count += 1.0f;
        for (size_t k = 0; k < known_->size(); k++) {
            dots_[k] += static_cast<double>((*known_)[k]->counts[cell]);
        }
    }
    is_matched_ = false;
}

void RequestTrace::match() {
    matched_.clear();
    for (size_t k = 0; k < known_->size(); k++) {
        matched_.push_back({k, dots_[k] / ((*known_)[k]->norm * std::sqrt(squares_))});
    }
    const size_t n = std::min(n_matches, matched_.size());
    std::partial_sort(matched_.begin(), matched_.begin() + static_cast<std::ptrdiff_t>(n), matched_.end(),
                      [](const Matched & a, const Matched & b) { return a.similarity > b.similarity; });
    matched_.resize(n);
    is_matched_ = true;
}

uint32_t RequestTrace::predict(const PredictionTarget & target, std::vector<float> & rows) {
    if (squares_ <= 0) {
        return 0;
    }
    if (!is_matched_) {
        match();
    }
    const size_t cell  = first_cell_[target.layer_idx];
    const size_t first = rows.size();
    rows.resize(first + target.n_expert, 0.0f);
    float      total = 0.0f;
    const auto add   = [&](const float * row, float weight) {
        const float sum = std::accumulate(row, row + target.n_expert, 0.0f);
        for (uint32_t i = 0; sum > 0.0f && i < target.n_expert; i++) {
            rows[first + i] += weight * row[i] / sum;
        }
        total += sum > 0.0f ? weight : 0.0f;
    };
    add(request_[static_cast<int>(phase_)].data() + cell, 1.0f);
    for (const Matched & m : matched_) {
        add((*known_)[m.idx]->counts.data() + cell, static_cast<float>(m.similarity));
    }
    if (total <= 0.0f) {
        rows.resize(first);
        return 0;
    }
    for (uint32_t i = 0; i < target.n_expert; i++) {
        rows[first + i] /= total;
    }
    return 1;
}

} // namespace hobbit
