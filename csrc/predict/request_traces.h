// How past requests used the experts: the EAMC of MoE-Infinity (arXiv 2401.14361, section 4), a bounded set of
// activation matrices, one for prompts and one for decoding. Shared by the contexts of a model; thread-safe.
#pragma once

#include "base/mutex.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace hobbit {

enum class Phase : uint8_t { prompt = 0, decode = 1 };
inline constexpr int n_phases = 2;

// Tokens sent to each expert, all layers' rows one after the other.
struct ActivationMatrix {
    std::vector<float> counts; // [n_cells]
    double             norm = 0;
};

class RequestTraces {
  public:
    using Set = std::vector<std::shared_ptr<const ActivationMatrix>>;

    // The paper finds 120 matrices, 3% of the requests, enough.
    explicit RequestTraces(size_t n_cells, uint32_t capacity = 120) : n_cells_(n_cells), capacity_(capacity) {}

    // Keeps the matrix of a finished request; when full, in place of the one most similar to it, so that the set stays
    // diverse. One without tokens is not kept. Throws std::invalid_argument unless counts are [n_cells].
    void insert(Phase phase, std::vector<float> counts);

    // The set as it is now; it does not change any more.
    std::shared_ptr<const Set> snapshot(Phase phase) const;

    size_t   n_cells() const { return n_cells_; }
    uint32_t capacity() const { return capacity_; }

  private:
    const size_t               n_cells_;
    const uint32_t             capacity_;
    mutable Mutex              mu_;
    std::shared_ptr<const Set> sets_[n_phases] HOBBIT_GUARDED_BY(mu_);
};

// 1 for the same use up to a factor, 0 for no expert in common.
double cosine(const ActivationMatrix & a, const ActivationMatrix & b);

} // namespace hobbit
