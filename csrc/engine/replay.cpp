#include "engine/replay.h"

#include "io/instant_reader.h"

#include <algorithm>
#include <numeric>

namespace hobbit {

Replay::Replay(const ReplayModel & model, const LoaderOptions & options, std::shared_ptr<const PrecisionPolicy> policy)
    : model_(model), policy_(std::move(policy)), reader_(make_instant_reader(model.alignment)),
      guessed_(model.n_expert.size()) {
    std::vector<CopySpec> specs;
    for (int precision = 0; precision < n_precisions; precision++) {
        for (uint16_t layer_idx = 0; layer_idx < model_.part_bytes[precision].size(); layer_idx++) {
            CopySpec spec;
            spec.layer_idx = layer_idx;
            spec.precision = static_cast<Precision>(precision);
            spec.n_expert  = model_.part_bytes[precision][layer_idx].empty() ? 0 : model_.n_expert[layer_idx];
            spec.n_used    = model_.n_used;
            for (const uint64_t n_bytes : model_.part_bytes[precision][layer_idx]) {
                spec.parts.push_back({0, n_bytes});
            }
            specs.push_back(std::move(spec));
        }
    }
    layouts_             = make_copy_layouts(specs, model_.alignment);
    const auto extent_of = [this](ExpertKey key, uint32_t part_idx) {
        return FileExtent{0, 0, layouts_.of(key).parts[part_idx].n_bytes};
    };
    loader_ = std::make_unique<Loader>(layouts_, model_.n_expert, extent_of, *reader_, options);
}

Replay::~Replay() = default;

uint32_t Replay::max_expert() const { return *std::max_element(model_.n_expert.begin(), model_.n_expert.end()); }

// As PrecisionStep::decide for one token.
void Replay::choose(uint16_t layer_idx, const int32_t * expert_idxs, const float * weights,
                    std::vector<Choice> & choices) {
    const uint32_t n     = model_.n_used;
    const float    total = std::accumulate(weights, weights + n, 0.0f);
    choices.assign(n, Choice::hi);
    if (policy_->is_exact() || !(total > 0.0f) || !layouts_.has(layer_idx, Precision::lo)) {
        return;
    }
    resident_.resize(n);
    loader_->find_resident(layer_idx, expert_idxs, n, resident_.data());
    chooser_.choose(*policy_, layer_idx, weights, resident_.data(), n, choices.data());
}

ReplayStep Replay::step(uint16_t layer_idx, const int32_t * expert_idxs, const float * weights,
                        const float * next_chances, const std::vector<ReplayGuess> & guesses, bool stop_at_gap) {
    ReplayStep out;
    choose(layer_idx, expert_idxs, weights, choices_);
    keys_.clear();
    for (uint32_t i = 0; i < model_.n_used; i++) {
        if (choices_[i] == Choice::skip) {
            out.n_skipped++;
            continue;
        }
        const auto precision = choices_[i] == Choice::hi ? Precision::hi : Precision::lo;
        keys_.push_back({layer_idx, static_cast<uint16_t>(expert_idxs[i]), precision});
    }
    loader_->on_route({layer_idx, model_.n_used, 1, expert_idxs, choices_.data()});
    if (next_chances != nullptr) {
        loader_->on_next_token(layer_idx, {next_chances, next_chances + model_.n_expert[layer_idx]});
    }
    std::vector<uint32_t> part_order(layouts_.layouts[0][layer_idx].parts.size());
    std::iota(part_order.begin(), part_order.end(), 0u);
    const auto               step    = loader_->begin(keys_, part_order, Admission::always);
    std::vector<ExpertKey> & guessed = guessed_[layer_idx];
    for (const LoadStep::Lease & lease : step->leases()) {
        if (lease.hit) {
            out.n_hits++;
            continue;
        }
        const uint64_t n_bytes = layouts_.of(lease.key).n_bytes();
        out.n_misses[static_cast<int>(lease.key.precision)]++;
        out.miss_bytes += n_bytes;
        if (std::find(guessed.begin(), guessed.end(), lease.key) != guessed.end()) {
            out.guessed_miss_bytes += n_bytes;
        }
    }
    guessed.clear();
    upgrade(layer_idx, expert_idxs, part_order, out);
    for (const ReplayGuess & guess : guesses) {
        const uint64_t guess_bytes = out.guess_bytes;
        note_guess(layer_idx, guess, out);
        if (stop_at_gap && out.guess_bytes > guess_bytes) {
            break;
        }
    }
    return out;
}

void Replay::upgrade(uint16_t layer_idx, const int32_t * expert_idxs, const std::vector<uint32_t> & part_order,
                     ReplayStep & step) {
    for (uint32_t i = 0; i < model_.n_used; i++) {
        const ExpertKey key{layer_idx, static_cast<uint16_t>(expert_idxs[i])};
        if (choices_[i] == Choice::promote) {
            const auto load = loader_->begin({key}, part_order, Admission::if_better);
            step.upgrade_bytes += load->leases()[0].slot ? layouts_.of(key).n_bytes() : 0;
        }
    }
}

void Replay::note_guess(uint16_t source_layer_idx, const ReplayGuess & guess, ReplayStep & step) {
    const uint32_t n = model_.n_used;
    if (guess.expert_idxs[0] < 0) {
        return;
    }
    std::vector<ExpectedUse> uses;
    for (uint32_t i = 0; i < n; i++) {
        uses.push_back({guess.layer_idx, static_cast<uint16_t>(guess.expert_idxs[i]), guess.weights[i]});
    }
    loader_->on_predict(source_layer_idx, uses);

    std::vector<Choice>   choices;
    std::vector<Resident> resident(n);
    choose(guess.layer_idx, guess.expert_idxs, guess.weights, choices);
    loader_->find_resident(guess.layer_idx, guess.expert_idxs, n, resident.data());
    for (uint32_t i = 0; i < n; i++) {
        const bool has = wants_hi(choices[i]) ? resident[i] == Resident::hi : resident[i] != Resident::none;
        if (choices[i] == Choice::skip || has) {
            continue;
        }
        const ExpertKey key{guess.layer_idx, static_cast<uint16_t>(guess.expert_idxs[i]),
                            wants_hi(choices[i]) ? Precision::hi : Precision::lo};
        guessed_[guess.layer_idx].push_back(key);
        step.guess_bytes += layouts_.of(key).n_bytes();
    }
}

void Replay::reset_sequence() {
    loader_->reset_sequence();
    for (std::vector<ExpertKey> & guessed : guessed_) {
        guessed.clear();
    }
}

} // namespace hobbit
