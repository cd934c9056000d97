#include "policy/two_level_lru.h"

#include <algorithm>

namespace hobbit {

namespace {

constexpr double high_level = 1e15; // above every clock, and exact beside it

} // namespace

TwoLevelLru::TwoLevelLru(const EvictionModel & model) : age_(model), records_(model) {
    for (const uint32_t n : model.n_expert) {
        is_expected_.emplace_back(n, uint8_t{0});
    }
}

void TwoLevelLru::on_route(const Routing & routing) {
    age_.on_route(routing);
    records_.on_route(routing);
    std::vector<uint8_t> & expected = is_expected_[routing.layer_idx];
    std::fill(expected.begin(), expected.end(), uint8_t{0});
}

void TwoLevelLru::on_predict(uint16_t, const ExpectedUse * uses, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        std::vector<uint8_t> & expected = is_expected_[uses[i].layer_idx];
        if (i == 0 || uses[i].layer_idx != uses[i - 1].layer_idx) {
            std::fill(expected.begin(), expected.end(), uint8_t{0});
        }
        expected[uses[i].expert_idx] = 1;
    }
}

double TwoLevelLru::score(ExpertKey key) const {
    const bool is_high = records_.in_last_pass(key) || is_expected_[key.layer_idx][key.expert_idx] != 0;
    return (is_high ? high_level : 0.0) + age_.score(key);
}

void TwoLevelLru::reset() {
    records_.reset();
    for (std::vector<uint8_t> & expected : is_expected_) {
        std::fill(expected.begin(), expected.end(), uint8_t{0});
    }
}

} // namespace hobbit
