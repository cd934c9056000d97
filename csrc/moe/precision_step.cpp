#include "moe/precision_step.h"

#include "ggml-backend.h"
#include "tier/device_tier.h"

#include <algorithm>
#include <numeric>

namespace hobbit {

void PrecisionStep::decide(const LayerView & view, const std::vector<int32_t> & ids, const PrecisionPolicy & policy,
                           const DeviceReads & reads) {
    const uint32_t n_expert = view.model->layers[view.layer_idx].n_expert;
    const uint32_t n_used   = view.n_used();
    any_skipped_            = false;
    if (view.model->tier != nullptr && view.model->tier->held(view.layer_idx).precision == Precision::lo) {
        choice_of_.assign(n_expert, Choice::lo); // all there is
        view.model->counters.n_pairs_lo += ids.size();
        return;
    }
    // An architecture whose weights are not recognised runs exact.
    if (policy.is_exact() || view.weights == nullptr || !view.model->layouts->has(view.layer_idx, Precision::lo)) {
        choice_of_.assign(n_expert, Choice::hi);
        return;
    }
    choice_of_.assign(n_expert, Choice::skip);
    weights_.resize(ids.size());
    reads.read(view.weights, weights_.data(), weights_.size() * sizeof(float));

    selected_.assign(ids.begin(), ids.end());
    std::sort(selected_.begin(), selected_.end());
    selected_.erase(std::unique(selected_.begin(), selected_.end()), selected_.end());
    resident_of_.assign(n_expert, Resident::none);
    const auto n = static_cast<uint32_t>(selected_.size());
    resident_.resize(std::max(n, n_used));
    // What is on the device costs nothing; everything below it does.
    if (view.model->tier != nullptr) {
        view.model->tier->find_resident(view.layer_idx, selected_.data(), n, resident_.data());
    } else {
        view.model->loader->find_coming(view.layer_idx, selected_.data(), n, resident_.data());
    }
    for (uint32_t i = 0; i < n; ++i) {
        resident_of_[static_cast<size_t>(selected_[i])] = resident_[i];
    }

    choices_.resize(n_used);
    for (size_t first = 0; first < ids.size(); first += n_used) {
        for (uint32_t i = 0; i < n_used; ++i) {
            resident_[i] = resident_of_[static_cast<size_t>(ids[first + i])];
        }
        chooser_.choose(policy, view.layer_idx, weights_.data() + first, resident_.data(), n_used, choices_.data());
        if (view.model->tier != nullptr) { // nothing brings a hi copy to a device but a token that wants it
            std::replace(choices_.begin(), choices_.end(), Choice::promote, Choice::hi);
        }
        for (uint32_t i = 0; i < n_used; ++i) {
            Choice & choice = choice_of_[static_cast<size_t>(ids[first + i])];
            choice          = most_demanding(choice, choices_[i]);
        }
    }

    StepCounters & counters   = view.model->counters;
    double         dropped    = 0.0;
    uint64_t       n_pairs[4] = {};
    for (size_t i = 0; i < ids.size(); ++i) {
        ++n_pairs[static_cast<size_t>(choice_of(ids[i]))];
    }
    any_skipped_ = n_pairs[static_cast<size_t>(Choice::skip)] > 0;
    if (any_skipped_) {
        for (size_t first = 0; first < ids.size(); first += n_used) {
            float sum = 0.0f, lost = 0.0f;
            for (uint32_t i = 0; i < n_used; ++i) {
                sum += weights_[first + i];
                lost += choice_of(ids[first + i]) == Choice::skip ? weights_[first + i] : 0.0f;
            }
            dropped += sum > 0.0f ? static_cast<double>(lost / sum) : 0.0;
        }
    }
    counters.n_pairs_lo += n_pairs[static_cast<size_t>(Choice::lo)] + n_pairs[static_cast<size_t>(Choice::promote)];
    counters.n_pairs_hi += n_pairs[static_cast<size_t>(Choice::hi)];
    counters.n_pairs_skipped += n_pairs[static_cast<size_t>(Choice::skip)];
    counters.dropped_mass_ppm += static_cast<uint64_t>(dropped * 1e6);
    counters.n_scored_rows += view.n_tokens();
}

void PrecisionStep::drop_skipped(const LayerView & view, const std::vector<int32_t> & ids, bool renormalise) {
    const uint32_t n_used = view.n_used();
    for (size_t first = 0; first < ids.size(); first += n_used) {
        float sum = 0.0f, kept = 0.0f;
        for (uint32_t i = 0; i < n_used; ++i) {
            float & weight = weights_[first + i];
            sum += weight;
            if (choice_of(ids[first + i]) == Choice::skip) {
                weight = 0.0f;
            }
            kept += weight;
        }
        if (renormalise && kept > 0.0f && kept < sum) {
            for (uint32_t i = 0; i < n_used; ++i) {
                weights_[first + i] *= sum / kept;
            }
        }
    }
    ggml_backend_tensor_set(view.weights, weights_.data(), 0, weights_.size() * sizeof(float));
}

} // namespace hobbit
