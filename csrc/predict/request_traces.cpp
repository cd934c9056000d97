#include "predict/request_traces.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace hobbit {

double cosine(const ActivationMatrix & a, const ActivationMatrix & b) {
    assert(a.counts.size() == b.counts.size());
    const double dot = std::inner_product(a.counts.begin(), a.counts.end(), b.counts.begin(), 0.0);
    return dot / (a.norm * b.norm);
}

void RequestTraces::insert(Phase phase, std::vector<float> counts) {
    if (counts.size() != n_cells_) {
        throw std::invalid_argument("a request's matrix has " + std::to_string(counts.size()) +
                                    " cells, this model has " + std::to_string(n_cells_) + " experts");
    }
    auto matrix    = std::make_shared<ActivationMatrix>();
    matrix->norm   = std::sqrt(std::inner_product(counts.begin(), counts.end(), counts.begin(), 0.0));
    matrix->counts = std::move(counts);
    if (matrix->norm <= 0) {
        return;
    }
    MutexLock lock(mu_);
    auto &    set     = sets_[static_cast<int>(phase)];
    auto      changed = set ? std::make_shared<Set>(*set) : std::make_shared<Set>();
    if (changed->size() < capacity_) {
        changed->push_back(std::move(matrix));
    } else if (capacity_ > 0) {
        const auto is_less_like = [&](const auto & a, const auto & b) {
            return cosine(*a, *matrix) < cosine(*b, *matrix);
        };
        *std::max_element(changed->begin(), changed->end(), is_less_like) = std::move(matrix);
    }
    set = std::move(changed);
}

std::shared_ptr<const RequestTraces::Set> RequestTraces::snapshot(Phase phase) const {
    MutexLock    lock(mu_);
    const auto & set = sets_[static_cast<int>(phase)];
    return set ? set : std::make_shared<const Set>();
}

} // namespace hobbit
