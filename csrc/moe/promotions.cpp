#include "moe/promotions.h"

#include "tier/device_tier.h"

#include <memory>
#include <optional>

namespace hobbit {

namespace {

constexpr uint32_t max_short_tokens = 32;

} // namespace

// What was missing is in the host's memory now, unless it was only streamed through.
void Promotions::promote(const ModelExperts & model, size_t n_parts, LayerStep & step,
                         const std::vector<uint32_t> & missing, const std::vector<int32_t> & lease_idxs) {
    if (missing.empty()) {
        return;
    }
    DeviceTier &                      tier      = *model.tier;
    LoadStep &                        load      = step.loaded();
    const std::shared_ptr<const void> hold      = step.share_loaded();
    const bool                        only_free = step.n_tokens() > max_short_tokens;
    hi_keys_.clear();
    for (const uint32_t i : missing) {
        const ExpertKey   key              = step.keys()[i];
        const auto        lease_idx        = static_cast<uint32_t>(lease_idxs[i]);
        const std::byte * parts[max_parts] = {};
        bool              is_whole         = static_cast<bool>(load.leases()[lease_idx].slot);
        for (uint32_t p = 0; is_whole && p < n_parts; p++) {
            is_whole = load.ready(lease_idx, p);
            parts[p] = is_whole ? load.data(lease_idx, p) : nullptr;
        }
        if (is_whole) {
            tier.promote(key, parts, hold, only_free);
        }
        if (key.precision == Precision::lo) {
            hi_keys_.push_back({key.layer_idx, key.expert_idx, Precision::hi});
        }
    }
    // An expert that is used much should be there in hi, however little it weighs each time.
    const std::shared_ptr<LoadStep> in_hi = model.loader->pin_resident(hi_keys_);
    for (uint32_t i = 0; i < in_hi->leases().size(); i++) {
        const std::byte * parts[max_parts] = {};
        for (uint32_t p = 0; p < n_parts; p++) {
            parts[p] = in_hi->data(i, p);
        }
        tier.promote(in_hi->leases()[i].key, parts, in_hi, only_free);
    }
}

void Promotions::restore(const ModelExperts & model) {
    while (const std::optional<ExpertKey> key = model.tier->next_displaced()) {
        const std::shared_ptr<LoadStep> load = model.loader->pin_resident({*key});
        if (load->leases().empty()) {
            continue;
        }
        const std::byte * parts[max_parts] = {};
        for (uint32_t p = 0; p < model.layouts->of(*key).parts.size(); p++) {
            parts[p] = load->data(0, p);
        }
        model.tier->promote(*key, parts, load);
    }
}

} // namespace hobbit
