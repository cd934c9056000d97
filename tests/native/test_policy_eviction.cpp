#include "policy/eviction.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <stdexcept>

using namespace hobbit;

namespace {

std::unique_ptr<EvictionPolicy> make(const std::string & name, const std::vector<uint32_t> & n_expert) {
    return make_eviction_policy({name, {}}, {n_expert});
}

} // namespace

TEST_CASE("an unknown eviction policy is refused by name") {
    for (const std::string & name : eviction_policy_names()) {
        CHECK(make(name, {4})->name() == name);
    }
    CHECK_THROWS_AS(make("fifo", {4}), std::invalid_argument);
    CHECK_THROWS_WITH_AS(make_eviction_policy({"lru", {{"decay", 0.5}}}, {{4}}),
                         "eviction policy 'lru' has no parameter 'decay': it has none", std::invalid_argument);
    CHECK_THROWS_WITH_AS(make_eviction_policy({"frequency", {{"decay", 1.5}}}, {{4}}),
                         "parameter 'decay' of eviction policy 'frequency' is 1.500000: expected 0 to 1",
                         std::invalid_argument);
}

TEST_CASE("decayed frequency equals a plain sum over all uses") {
    constexpr uint32_t n_layers = 3, n_expert = 16, n_used = 4;
    const auto         policy = make("frequency", std::vector<uint32_t>(n_layers, n_expert));
    std::mt19937       rng(7);
    double             plain[n_layers][n_expert] = {};
    for (int step = 0; step < 400; step++) {
        const auto           layer_idx = static_cast<uint16_t>(rng() % n_layers);
        const uint32_t       n_tokens  = 1 + static_cast<uint32_t>(rng() % 5);
        std::vector<int32_t> ids;
        for (uint32_t token = 0; token < n_tokens; token++) {
            for (double & value : plain[layer_idx]) {
                value *= 0.98;
            }
            for (uint32_t i = 0; i < n_used; i++) {
                ids.push_back(static_cast<int32_t>((rng() % 4) * n_used + i)); // distinct within the row
                plain[layer_idx][ids.back()] += 1.0;
            }
        }
        policy->on_route({layer_idx, n_used, n_tokens, ids.data()});
        for (uint16_t layer = 0; layer < n_layers; layer++) {
            for (uint16_t e = 0; e < n_expert; e++) {
                const double score = policy->score({layer, e, Precision::hi});
                REQUIRE(score == doctest::Approx(plain[layer][e]).epsilon(1e-9));
                REQUIRE(score == policy->score({layer, e, Precision::lo}));
            }
        }
    }
}

TEST_CASE("decayed frequency goes on after very long disuse") {
    const auto    policy = make("frequency", {4});
    const int32_t once   = 0;
    policy->on_route({0, 1, 1, &once});
    const std::vector<int32_t> other(5000, 1);
    policy->on_route({0, 1, 5000, other.data()});
    CHECK(policy->score({0, 0, Precision::hi}) == doctest::Approx(std::pow(0.98, 5000)));
    CHECK(policy->score({0, 0, Precision::hi}) > policy->score({0, 2, Precision::hi}));
    CHECK(policy->score({0, 1, Precision::hi}) == doctest::Approx(50.0));
}

TEST_CASE("lru orders by last use, over tokens and layers") {
    const auto    policy    = make("lru", {4, 0, 4});
    const int32_t first[4]  = {0, 1, 1, 2}; // two tokens
    const int32_t second[2] = {0, 3};
    policy->on_route({0, 2, 2, first});
    policy->on_route({2, 2, 1, second});
    const auto score = [&](uint16_t layer_idx, uint16_t e) { return policy->score({layer_idx, e, Precision::hi}); };
    CHECK(score(0, 3) < score(0, 0));  // never used
    CHECK(score(0, 0) < score(0, 1));  // first token only
    CHECK(score(0, 1) == score(0, 2)); // the same token
    CHECK(score(0, 2) < score(2, 0));  // an earlier layer
    const int32_t again = 0;
    policy->on_route({0, 1, 1, &again});
    CHECK(score(2, 3) < score(0, 0));
    CHECK(score(0, 0) == policy->score({0, 0, Precision::lo}));
}
