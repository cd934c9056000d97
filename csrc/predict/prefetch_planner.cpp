#include "predict/prefetch_planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace hobbit {

namespace {

constexpr float  coverage    = 0.9f; // of the gate weight: the experts that "expertflow" counts on
constexpr size_t max_guesses = 256;  // more than any drive brings in time
constexpr double ne_alpha    = 0.05;

} // namespace

PrefetchPlanner::PrefetchPlanner(const PrefetchOptions & options, const PredictorModel & model,
                                 const PredictorShared & shared, const CopyLayouts & layouts, PredictionCounts & counts,
                                 std::unique_ptr<RouterFilter> filter)
    : kind_(horizon_kind(options.horizon)), depth_(options.depth), model_(model), layouts_(layouts),
      predictor_(make_predictor(options.predictor, model, shared)), controller_(1), filter_(std::move(filter)),
      bets_(model.n_expert.size()), counts_(counts), record_(shared.record) {
    place_.resize(model_.n_expert.size());
    for (size_t i = 0; i < model_.n_expert.size(); i++) {
        if (model_.n_expert[i] > 0) {
            place_[i] = moe_layers_.size();
            moe_layers_.push_back(static_cast<uint16_t>(i));
        }
    }
    const auto max_depth = static_cast<uint32_t>(std::max<size_t>(moe_layers_.size(), 2) - 1);
    depth_               = depth_ == 0 ? max_depth : std::min(depth_, max_depth);
    controller_          = StepController(depth_);
}

void PrefetchPlanner::begin_sequence() {
    for (auto & of_layer : bets_) {
        for (Bet & bet : of_layer) {
            bet.n_rows = 0;
        }
    }
    predictor_->begin_sequence();
}

void PrefetchPlanner::begin_pass(const int32_t * token_ids, uint32_t n_tokens) {
    n_tokens_ = n_tokens;
    if (record_) {
        record_->n_passes++;
        token_ids_.assign(n_tokens, -1);
        if (token_ids != nullptr) {
            token_ids_.assign(token_ids, token_ids + n_tokens);
        }
    }
    predictor_->begin_pass(token_ids, n_tokens);
}

void PrefetchPlanner::observe(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_used, uint32_t n_tokens) {
    layer_idx_ = layer_idx;
    if (n_tokens == 0) {
        return; // no token of this batch gets this far
    }
    if (n_used == model_.n_used) {
        settle(layer_idx, expert_idxs, n_tokens);
    }
    predictor_->observe(layer_idx, expert_idxs, n_used, n_tokens);
    if (record_) {
        selected_.assign(expert_idxs, expert_idxs + static_cast<size_t>(n_used) * n_tokens);
    }
}

void PrefetchPlanner::record(const GateLogits & gates) {
    PredictionRecord & r = *record_;
    if (gates.n_tokens != n_tokens_ || selected_.size() != static_cast<size_t>(n_tokens_) * model_.n_used) {
        return;
    }
    r.n_used                = model_.n_used;
    r.n_ahead               = depth_;
    r.max_expert            = *std::max_element(model_.n_expert.begin(), model_.n_expert.end());
    r.n_embd                = gates.n_embd;
    const uint32_t n_expert = model_.n_expert[layer_idx_];
    for (uint32_t t = 0; gates.own != nullptr && gates.input != nullptr && t < n_tokens_; t++) {
        r.inputs.insert(r.inputs.end(), gates.input + t * r.n_embd, gates.input + (t + 1) * r.n_embd);
        r.logits.insert(r.logits.end(), gates.own + t * n_expert, gates.own + (t + 1) * n_expert);
        r.logits.resize(r.logits.size() + r.max_expert - n_expert, std::numeric_limits<float>::quiet_NaN());
    }
    for (uint32_t t = 0; t < n_tokens_; t++) {
        r.selections.insert(r.selections.end(), {static_cast<int32_t>(r.n_passes), static_cast<int32_t>(t),
                                                 static_cast<int32_t>(layer_idx_), token_ids_[t]});
        const auto first = selected_.begin() + static_cast<std::ptrdiff_t>(t * model_.n_used);
        r.selections.insert(r.selections.end(), first, first + model_.n_used);
        const size_t at = r.gates.size();
        r.gates.resize(at + static_cast<size_t>(depth_) * r.max_expert, std::numeric_limits<float>::quiet_NaN());
        for (uint32_t d = 0; d < depth_ && place_[layer_idx_] + d + 1 < moe_layers_.size(); d++) {
            const uint16_t layer_idx = moe_layers_[place_[layer_idx_] + d + 1];
            const float *  logits    = layer_idx < gates.of_layer.size() ? gates.of_layer[layer_idx] : nullptr;
            if (logits != nullptr) {
                const uint32_t n = model_.n_expert[layer_idx];
                std::copy(logits + t * n, logits + (t + 1) * n,
                          r.gates.begin() + static_cast<std::ptrdiff_t>(at + d * r.max_expert));
            }
        }
    }
}

void PrefetchPlanner::settle(uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_tokens) {
    for (size_t d = 0; d < PredictionCounts::max_distance; d++) {
        Bet & bet = bets_[layer_idx][d];
        if (bet.n_rows == 0 || (bet.n_rows != 1 && bet.n_rows != n_tokens)) {
            bet.n_rows = 0;
            continue;
        }
        const size_t n = model_.n_used;
        for (uint32_t t = 0; t < n_tokens; t++) {
            const int32_t * guessed = bet.expert_idxs.data() + (bet.n_rows == 1 ? 0 : t * n);
            for (size_t i = 0; i < n; i++) {
                counts_.n_guessed[d] += std::find(guessed, guessed + n, expert_idxs[t * n + i]) != guessed + n ? 1 : 0;
            }
        }
        counts_.n_selected[d] += n * n_tokens;
        bet.n_rows = 0;
    }
}

uint32_t PrefetchPlanner::depth_now(const Loader & loader) {
    if (kind_ != HorizonKind::expertflow) {
        return depth_;
    }
    const PrefetchState state = loader.prefetch_state();
    const CopyLayout &  copy  = layouts_.of({layer_idx_, 0, Precision::hi});
    controller_.measure(n_experts_, static_cast<double>(copy.n_bytes()), state.read_bytes_s, state.step_us);
    controller_.feedback(state.n_late - n_late_, state.n_wasted - n_wasted_);
    n_late_   = state.n_late;
    n_wasted_ = state.n_wasted;
    return controller_.n_steps();
}

const std::vector<ExpertKey> & PrefetchPlanner::plan(const Loader & loader, const PrecisionPolicy & precision,
                                                     const GateLogits & gates, const FindResident & find_resident) {
    if (record_) {
        record(gates);
    }
    // A filter prefers what is on its way, too (RouterFilterStep).
    const FindResident of_loader = [&](uint16_t layer_idx, const int32_t * expert_idxs, uint32_t n_idxs,
                                       Resident * resident) {
        if (filter_ != nullptr) {
            loader.find_coming(layer_idx, expert_idxs, n_idxs, resident);
        } else {
            loader.find_resident(layer_idx, expert_idxs, n_idxs, resident);
        }
    };
    const FindResident & find = find_resident ? find_resident : of_loader;
    guesses_.clear();
    keys_.clear();
    expected_.clear();
    const uint32_t depth = depth_now(loader);
    const size_t   n     = moe_layers_.size();
    for (uint32_t distance = 1; distance <= depth && guesses_.size() < max_guesses; distance++) {
        const size_t place = place_[layer_idx_] + distance;
        if (kind_ == HorizonKind::all_decayed && place >= n) {
            break;
        }
        PredictionTarget target;
        target.layer_idx        = moe_layers_[place % n];
        target.source_layer_idx = layer_idx_;
        target.distance         = distance;
        target.n_expert         = model_.n_expert[target.layer_idx];
        target.n_tokens         = n_tokens_;
        if (place < n && gates.n_tokens == n_tokens_ && target.layer_idx < gates.of_layer.size()) {
            target.gate_logits = gates.of_layer[target.layer_idx]; // beyond the last layer another token follows
        }
        const float nearness  = 1.0f - static_cast<float>(distance) / static_cast<float>(n);
        const bool  is_absent = add_layer(find, precision, target, nearness);
        if (is_absent && kind_ == HorizonKind::first_gap) {
            break;
        }
    }
    if (kind_ == HorizonKind::all_decayed) {
        std::stable_sort(guesses_.begin(), guesses_.end(),
                         [](const Guess & a, const Guess & b) { return a.worth > b.worth; });
    }
    for (const Guess & guess : guesses_) {
        if (std::find(keys_.begin(), keys_.end(), guess.key) == keys_.end()) {
            keys_.push_back(guess.key);
        }
    }
    return keys_;
}

bool PrefetchPlanner::add_layer(const FindResident & find_resident, const PrecisionPolicy & precision,
                                const PredictionTarget & target, float nearness) {
    rows_.clear();
    const uint32_t n_rows = predictor_->predict(target, rows_);
    Bet *          bet =
        target.distance <= PredictionCounts::max_distance ? &bets_[target.layer_idx][target.distance - 1] : nullptr;
    if (bet != nullptr) {
        bet->n_rows = n_rows;
        bet->expert_idxs.clear();
    }
    const size_t first      = expected_.size();
    bool         any_absent = false;
    for (uint32_t r = 0; r < n_rows; r++) {
        any_absent = add_row(find_resident, precision, target, rows_.data() + static_cast<size_t>(r) * target.n_expert,
                             nearness) ||
                     any_absent;
        expect(target, first, rows_.data() + static_cast<size_t>(r) * target.n_expert);
        if (bet != nullptr) {
            bet->expert_idxs.insert(bet->expert_idxs.end(), ids_.begin(), ids_.begin() + model_.n_used);
        }
    }
    return any_absent;
}

// The candidates of one row among expected_, whose entries from `first` on are of the same layer.
void PrefetchPlanner::expect(const PredictionTarget & target, size_t first, const float * row) {
    for (size_t i = 0; i < weights_.size(); i++) {
        const auto expert_idx = static_cast<uint16_t>(ids_[i]);
        const auto same = std::find_if(expected_.begin() + static_cast<std::ptrdiff_t>(first), expected_.end(),
                                       [expert_idx](const ExpectedUse & use) { return use.expert_idx == expert_idx; });
        if (same == expected_.end()) {
            expected_.push_back({target.layer_idx, expert_idx, row[expert_idx]});
        } else {
            same->probability = std::max(same->probability, row[expert_idx]);
        }
    }
}

// Of sorted ids_: as many as are used, or with "expertflow" those that carry most of the weight.
uint32_t PrefetchPlanner::n_candidates(const float * row) const {
    if (kind_ != HorizonKind::expertflow) {
        return model_.n_used;
    }
    float    sum = 0.0f;
    uint32_t n   = 0;
    while (n < ids_.size() && (sum < coverage || n == 0)) {
        sum += row[ids_[n++]];
    }
    return n;
}

// Of ids_, all experts by falling weight: the first are then those that the layer will select as it looks now.
void PrefetchPlanner::apply_filter(uint16_t layer_idx, const float * row) {
    const auto n_expert = static_cast<uint32_t>(ids_.size());
    scores_.resize(n_expert);
    std::transform(row, row + n_expert, scores_.begin(), [](float weight) { return std::log(weight); });
    filter_->select(layer_idx, scores_.data(), resident_of_.data(), n_expert, model_.n_used, ids_.data());
}

// One token: its likeliest experts, each in the copy that the precision policy would pick if the guess is right.
bool PrefetchPlanner::add_row(const FindResident & find_resident, const PrecisionPolicy & precision,
                              const PredictionTarget & target, const float * row, float nearness) {
    const bool     is_filtered = filter_ != nullptr && kind_ != HorizonKind::expertflow;
    const uint32_t max_n       = std::min(target.n_expert, 2 * model_.n_used);
    ids_.resize(target.n_expert);
    std::iota(ids_.begin(), ids_.end(), 0);
    if (is_filtered) {
        resident_of_.resize(target.n_expert);
        find_resident(target.layer_idx, ids_.data(), target.n_expert, resident_of_.data());
    }
    std::partial_sort(ids_.begin(), is_filtered ? ids_.end() : ids_.begin() + max_n, ids_.end(),
                      [row](int32_t a, int32_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
    if (is_filtered) {
        apply_filter(target.layer_idx, row);
    }
    ids_.resize(max_n);
    uint32_t n = n_candidates(row);
    n_experts_ += ne_alpha * (static_cast<double>(n) - n_experts_);
    while (n > 1 && row[ids_[n - 1]] <= 0.0f) {
        n--; // known not to be used
    }

    resident_.resize(n);
    weights_.resize(n);
    choices_.assign(n, Choice::hi);
    if (is_filtered) {
        std::transform(ids_.begin(), ids_.begin() + n, resident_.begin(),
                       [this](int32_t expert_idx) { return resident_of_[static_cast<size_t>(expert_idx)]; });
    } else {
        find_resident(target.layer_idx, ids_.data(), n, resident_.data());
    }
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        weights_[i] = row[ids_[i]];
        sum += weights_[i];
    }
    if (layouts_.has(target.layer_idx, Precision::lo)) {
        for (float & weight : weights_) {
            weight /= sum;
        }
        precision.choose(target.layer_idx, weights_.data(), resident_.data(), n, choices_.data());
    }
    bool any_absent = false;
    for (uint32_t i = 0; i < n; i++) {
        if (choices_[i] == Choice::skip) {
            continue;
        }
        const bool  is_hi_wanted = wants_hi(choices_[i]);
        const bool  is_there     = is_hi_wanted ? resident_[i] == Resident::hi : resident_[i] != Resident::none;
        const bool  is_hi        = is_there ? resident_[i] == Resident::hi : is_hi_wanted;
        const float worth        = row[ids_[i]] * nearness;
        const auto  key_in       = [&](bool hi) {
            return ExpertKey{target.layer_idx, static_cast<uint16_t>(ids_[i]), hi ? Precision::hi : Precision::lo};
        };
        guesses_.push_back({key_in(is_hi), worth});
        if (choices_[i] == Choice::promote) {
            guesses_.push_back({key_in(false), worth}); // serves if the hi copy is late, so it has to stay
        }
        any_absent = any_absent || !is_there;
    }
    return any_absent;
}

} // namespace hobbit
