#include "tier/step_plan.h"

#include <algorithm>

namespace hobbit {

namespace {

double host_us(const MissingExpert & e, uint64_t n_bytes, const TierCosts & costs) {
    return effective_bytes(n_bytes, e.n_rows) * costs.host_us_per_byte[static_cast<int>(e.precision)];
}

} // namespace

// Experts with many rows are dear on the host and those with few are cheap, while a copy costs the same for all: so
// what is copied are the matrices of the experts with the most rows, and only how many of them is searched for.
StepPlan plan_step(const std::vector<MissingExpert> & experts, const TierCosts & costs, HostParts host) {
    std::vector<size_t> order(experts.size());
    for (size_t i = 0; i < order.size(); i++) {
        order[i] = i;
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return host_us(experts[a], experts[a].last_bytes, costs) > host_us(experts[b], experts[b].last_bytes, costs);
    });

    // Prefix sums over the first matrices (n of them copied) and the last ones, without those that are there.
    std::vector<double> first_copy{costs.copy_start_us}, first_host{0}, last_copy{0}, last_host{0};
    for (const size_t i : order) {
        const MissingExpert & e = experts[i];
        for (uint32_t j = e.n_there; j < e.n_first; j++) {
            first_copy.push_back(first_copy.back() + static_cast<double>(e.first_bytes) * costs.copy_us_per_byte);
            first_host.push_back(first_host.back() + host_us(e, e.first_bytes, costs));
        }
        if (e.n_there <= e.n_first) {
            last_copy.push_back(last_copy.back() + static_cast<double>(e.last_bytes) * costs.copy_us_per_byte);
            last_host.push_back(last_host.back() + host_us(e, e.last_bytes, costs));
        }
    }

    const double host_once_us = costs.host_sync_us + costs.host_start_us;
    StepPlan     best;
    size_t       best_first = 0, best_last = 0;
    best.duration_us = -1;
    for (size_t n_first = host.first ? 0 : first_copy.size() - 1; n_first < first_copy.size(); n_first++) {
        const double on_host    = first_host.back() - first_host[n_first];
        const double first_done = std::max(first_copy[n_first], on_host + (on_host > 0 ? host_once_us : 0));
        for (size_t n_last = host.last ? 0 : last_copy.size() - 1; n_last < last_copy.size(); n_last++) {
            const double last_on_host = last_host.back() - last_host[n_last];
            const double host_done    = first_done + last_on_host + (last_on_host > 0 ? host_once_us : 0);
            const double done         = std::max(host_done, first_copy[n_first] + last_copy[n_last]);
            if (best.duration_us < 0 || done < best.duration_us) {
                best.duration_us = done;
                best_first       = n_first;
                best_last        = n_last;
            }
        }
    }

    best.places.resize(experts.size());
    size_t     n_first = 0, n_last = 0;
    const auto place = [](bool is_copied) { return is_copied ? Place::device : Place::host; };
    for (const size_t i : order) {
        const MissingExpert & e      = experts[i];
        std::vector<Place> &  places = best.places[i];
        for (uint32_t j = 0; j < e.n_first; j++) {
            places.push_back(place(j < e.n_there || n_first++ < best_first));
        }
        places.push_back(place(e.n_there > e.n_first || n_last++ < best_last));
    }
    return best;
}

} // namespace hobbit
