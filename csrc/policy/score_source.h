// A policy that must not be called under a lock, since it may wait: one written in Python takes the interpreter's lock,
// which a thread that waits for the loader's may hold. It is called before the loader locks, by the thread that
// computes, and gives the worth of every copy at once; under the lock only this table is read.
#pragma once

#include "policy/eviction.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace hobbit {

// A score for each copy of a model: [precision][layer][expert], layers padded to the same number of experts.
class ScoreTable {
  public:
    ScoreTable(size_t n_layers, size_t n_expert)
        : n_layers_(n_layers), n_expert_(n_expert), scores_(n_precisions * n_layers * n_expert) {}

    double   at(ExpertKey key) const { return scores_[row(key.precision, key.layer_idx) + key.expert_idx]; }
    double * of(Precision precision) { return scores_.data() + row(precision, 0); } // [n_layers][n_expert]

    size_t n_layers() const { return n_layers_; }
    size_t n_expert() const { return n_expert_; }

  private:
    size_t row(Precision precision, size_t layer_idx) const {
        return (static_cast<size_t>(precision) * n_layers_ + layer_idx) * n_expert_;
    }

    size_t              n_layers_;
    size_t              n_expert_;
    std::vector<double> scores_;
};

// What it throws (anything with std::exception as its base) ends the graph with that error.
class ScoreSource {
  public:
    virtual ~ScoreSource() = default;

    // Each returns the scores that hold until the next call. begin() comes first, and again when the memory changes.
    virtual ScoreTable begin(const EvictionModel & model) = 0;
    virtual ScoreTable on_route(const Routing & routing)  = 0;
    virtual ScoreTable reset()                            = 0;

    // See EvictionPolicy. Nothing: it does not listen, and its scores stay.
    virtual std::optional<ScoreTable> on_next_token(uint16_t layer_idx, const std::vector<float> & chances) {
        (void)layer_idx, (void)chances;
        return std::nullopt;
    }
    virtual std::optional<ScoreTable> on_predict(uint16_t source_layer_idx, const std::vector<ExpectedUse> & uses) {
        (void)source_layer_idx, (void)uses;
        return std::nullopt;
    }
};

// The native side of a score source.
class TableEviction : public EvictionPolicy {
  public:
    explicit TableEviction(ScoreTable scores) : scores_(std::move(scores)) {}

    const char * name() const override { return "score table"; }
    void         on_route(const Routing &) override {} // the source was told
    double       score(ExpertKey key) const override { return scores_.at(key); }
    void         reset() override {}

    void set_scores(ScoreTable scores) { scores_ = std::move(scores); }

  private:
    ScoreTable scores_;
};

} // namespace hobbit
