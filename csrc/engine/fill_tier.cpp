#include "engine/fill_tier.h"

#include <memory>
#include <numeric>
#include <vector>

namespace hobbit {

namespace {

using SharedStep = std::shared_ptr<LoadStep>;

SharedStep read_expert(Loader & loader, DeviceTier & tier, ExpertKey key, const std::vector<uint32_t> & part_order) {
    SharedStep step = loader.begin({key}, part_order, Admission::always);
    if (!step->leases()[0].slot) {
        // All slots are held by copies to the device that are not done yet.
        step.reset();
        tier.finish_promotions();
        step = loader.begin({key}, part_order, Admission::always);
    }
    return step;
}

} // namespace

Status fill_tier(Loader & loader, DeviceTier & tier, Precision precision) {
    const std::vector<CopyLayout> & layers = tier.layouts().layouts[static_cast<int>(precision)];
    for (uint16_t layer_idx = 0; layer_idx < layers.size(); layer_idx++) {
        std::vector<uint32_t> part_order(layers[layer_idx].parts.size());
        std::iota(part_order.begin(), part_order.end(), 0u);
        for (uint16_t expert_idx = 0; expert_idx < layers[layer_idx].n_expert; expert_idx++) {
            const ExpertKey   key{layer_idx, expert_idx, precision};
            const SharedStep  step             = read_expert(loader, tier, key, part_order);
            const std::byte * parts[max_parts] = {};
            if (!step->leases()[0].slot) {
                return {};
            }
            for (const uint32_t part_idx : part_order) {
                std::vector<uint32_t> wanted{0}, arrived;
                if (Status status = step->wait_any(part_idx, wanted, arrived); !status.ok()) {
                    return status;
                }
                parts[part_idx] = step->data(0, part_idx);
            }
            if (!tier.promote(key, parts, step)) {
                tier.finish_promotions(); // enough others were on their way
                tier.promote(key, parts, step);
            }
        }
    }
    tier.finish_promotions();
    tier.fix_complete_layers();
    return {};
}

} // namespace hobbit
