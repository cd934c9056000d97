// The split of a layer's misses between copies and the host, against a search of all splits.
#include "tier/step_plan.h"
#include "tier/tier_costs.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

namespace hobbit {

namespace {

constexpr uint64_t mib = 1 << 20;

double host_us(uint64_t n_bytes, uint32_t n_rows, const TierCosts & costs) {
    return effective_bytes(n_bytes, n_rows) * costs.host_us_per_byte[0];
}

// When a layer is done if its matrices are computed where `places` says: the reference.
double duration_us(const std::vector<MissingExpert> & experts, const std::vector<std::vector<Place>> & places,
                   const TierCosts & costs) {
    double first_copy = costs.copy_start_us, last_copy = 0, first_host = 0, last_host = 0;
    for (size_t i = 0; i < experts.size(); i++) {
        for (uint32_t j = experts[i].n_there; j < experts[i].n_first; j++) {
            (places[i][j] == Place::device ? first_copy : first_host) +=
                places[i][j] == Place::device ? static_cast<double>(experts[i].first_bytes) * costs.copy_us_per_byte
                                              : host_us(experts[i].first_bytes, experts[i].n_rows, costs);
        }
        if (experts[i].n_there > experts[i].n_first) {
            continue;
        }
        (places[i].back() == Place::device ? last_copy : last_host) +=
            places[i].back() == Place::device ? static_cast<double>(experts[i].last_bytes) * costs.copy_us_per_byte
                                              : host_us(experts[i].last_bytes, experts[i].n_rows, costs);
    }
    const double first_done =
        std::max(first_copy, first_host + (first_host > 0 ? costs.host_sync_us + costs.host_start_us : 0));
    return std::max(first_done + last_host + (last_host > 0 ? costs.host_sync_us + costs.host_start_us : 0),
                    first_copy + last_copy);
}

bool is_allowed(const std::vector<Place> & places, HostParts host) {
    return (host.first || std::count(places.begin(), places.end() - 1, Place::host) == 0) &&
           (host.last || places.back() == Place::device);
}

double best_of_all(const std::vector<MissingExpert> & experts, const TierCosts & costs, HostParts host = {}) {
    size_t n_parts = 0;
    for (const MissingExpert & e : experts) {
        n_parts += e.n_first + 1;
    }
    double best = -1;
    for (size_t bits = 0; bits < (size_t{1} << n_parts); bits++) {
        std::vector<std::vector<Place>> places;
        size_t                          bit = 0;
        for (const MissingExpert & e : experts) {
            places.emplace_back();
            for (uint32_t j = 0; j <= e.n_first; j++) {
                places.back().push_back((bits >> bit++) & 1 ? Place::device : Place::host);
            }
        }
        if (!std::all_of(places.begin(), places.end(), [&](const auto & p) { return is_allowed(p, host); })) {
            continue;
        }
        const double us = duration_us(experts, places, costs);
        best            = best < 0 ? us : std::min(best, us);
    }
    return best;
}

TEST_CASE("with equal rows no split is faster") {
    for (const double copy_gb_s : {3.0, 12.0, 25.0, 54.0}) {
        for (const double host_gb_s : {10.0, 30.0, 80.0}) {
            TierCosts costs;
            costs.copy_us_per_byte    = 1e-3 / copy_gb_s;
            costs.host_us_per_byte[0] = 1e-3 / host_gb_s;
            costs.host_start_us       = 40;
            costs.copy_start_us       = 25;
            for (size_t n = 1; n <= 4; n++) {
                const std::vector<MissingExpert> experts(n, {Precision::hi, 1, 62 * mib, 2, 62 * mib});
                const StepPlan                   plan = plan_step(experts, costs);
                CHECK(plan.duration_us == doctest::Approx(best_of_all(experts, costs)));
                CHECK(plan.duration_us == doctest::Approx(duration_us(experts, plan.places, costs)));
            }
        }
    }
}

TEST_CASE("a host faster than the link computes first matrices and gets the last ones copied") {
    TierCosts costs;
    costs.copy_us_per_byte    = 1e-3 / 50;
    costs.host_us_per_byte[0] = 1e-3 / 60;
    costs.host_sync_us        = 10;
    const StepPlan plan       = plan_step({{Precision::hi, 1, 60 * mib, 2, 60 * mib}}, costs);
    CHECK(plan.places == std::vector<std::vector<Place>>{{Place::host, Place::host, Place::device}});
}

TEST_CASE("what is there already stays there, and the rest is split as well as can be") {
    for (const double host_gb_s : {10.0, 40.0, 90.0}) {
        TierCosts costs;
        costs.copy_us_per_byte    = 1e-3 / 50;
        costs.host_us_per_byte[0] = 1e-3 / host_gb_s;
        for (uint32_t first = 0; first <= 3; first++) {
            for (uint32_t second = 0; second <= 3; second++) {
                const std::vector<MissingExpert> experts = {{Precision::hi, 1, 30 * mib, 2, 30 * mib, first},
                                                            {Precision::hi, 1, 30 * mib, 2, 30 * mib, second},
                                                            {Precision::hi, 1, 30 * mib, 2, 30 * mib, 0}};
                const StepPlan                   plan    = plan_step(experts, costs);
                CHECK(plan.duration_us == doctest::Approx(best_of_all(experts, costs)));
                CHECK(plan.duration_us == doctest::Approx(duration_us(experts, plan.places, costs)));
                for (size_t i = 0; i < experts.size(); i++) {
                    REQUIRE(plan.places[i].size() == 3);
                    const auto end = plan.places[i].begin() + experts[i].n_there;
                    CHECK(std::count(plan.places[i].begin(), end, Place::host) == 0);
                }
            }
        }
    }
}

TEST_CASE("what the host may not multiply by is copied, and the rest is split as well as can be") {
    for (const double host_gb_s : {10.0, 40.0, 90.0}) {
        TierCosts costs;
        costs.copy_us_per_byte    = 1e-3 / 50;
        costs.host_us_per_byte[0] = 1e-3 / host_gb_s;
        for (const HostParts host : {HostParts{true, false}, HostParts{false, true}, HostParts{false, false}}) {
            const std::vector<MissingExpert> experts(3, {Precision::hi, 1, 30 * mib, 2, 30 * mib});
            const StepPlan                   plan = plan_step(experts, costs, host);
            CHECK(plan.duration_us == doctest::Approx(best_of_all(experts, costs, host)));
            CHECK(plan.duration_us == doctest::Approx(duration_us(experts, plan.places, costs)));
            for (const auto & places : plan.places) {
                CHECK(is_allowed(places, host));
            }
        }
    }
}

TEST_CASE("many rows are copied") {
    const StepPlan plan = plan_step(
        {{Precision::hi, 500, 60 * mib, 2, 60 * mib}, {Precision::hi, 300, 60 * mib, 2, 60 * mib}}, TierCosts{});
    for (const auto & places : plan.places) {
        CHECK(std::count(places.begin(), places.end(), Place::device) == 3);
    }
}

TEST_CASE("a slow link leaves everything to the host") {
    TierCosts costs;
    costs.copy_us_per_byte    = 1e-3 / 0.5;
    costs.host_us_per_byte[0] = 1e-3 / 40;
    const StepPlan plan =
        plan_step({{Precision::hi, 1, 5 * mib, 1, 5 * mib}, {Precision::hi, 1, 5 * mib, 1, 5 * mib}}, costs);
    for (const auto & places : plan.places) {
        REQUIRE(places.size() == 2);
        CHECK(std::count(places.begin(), places.end(), Place::host) == 2);
    }
}

TEST_CASE("what is copied has the most rows") {
    TierCosts costs;
    costs.copy_us_per_byte = costs.host_us_per_byte[0] = 1e-3 / 30;
    const StepPlan plan                                = plan_step({{Precision::hi, 1, 5 * mib, 2, 5 * mib},
                                                                    {Precision::hi, 8, 5 * mib, 2, 5 * mib},
                                                                    {Precision::hi, 2, 5 * mib, 2, 5 * mib}},
                                                                   costs);
    const auto     n_copied                            = [&](size_t i) {
        return std::count(plan.places[i].begin(), plan.places[i].end(), Place::device);
    };
    CHECK(n_copied(1) >= n_copied(2));
    CHECK(n_copied(2) >= n_copied(0));
    CHECK(n_copied(1) > 0);
}

TEST_CASE("nothing missing, nothing to do") { CHECK(plan_step({}, TierCosts{}).duration_us == doctest::Approx(0)); }

TEST_CASE("costs follow what is measured") {
    CostMeter meter;
    meter.on_copied(1 << 20, 1'000); // too little to say anything
    CHECK(meter.costs().copy_us_per_byte == doctest::Approx(TierCosts{}.copy_us_per_byte));
    meter.on_copied(100'000'000, 10'000);
    CHECK(meter.costs().copy_us_per_byte == doctest::Approx(1e-4));
    const auto host_took = [&](Precision precision, uint32_t n_rows, double us) {
        HostWork work;
        work.add(precision, 1'000'000, n_rows);
        work.duration_us = us;
        meter.on_host_work(work);
    };
    host_took(Precision::hi, 1, 1e9); // the first: threads start
    CHECK(meter.costs().host_us_per_byte[0] == doctest::Approx(TierCosts{}.host_us_per_byte[0]));
    for (int i = 0; i < 200; i++) {
        host_took(Precision::hi, 3, 50.0 * (1 + 2 * host_row_share));
        host_took(Precision::lo, 1, 90.0);
    }
    CHECK(meter.costs().host_us_per_byte[0] == doctest::Approx(50e-6).epsilon(0.01));
    CHECK(meter.costs().host_us_per_byte[1] == doctest::Approx(90e-6).epsilon(0.01));
    host_took(Precision::hi, 1, 1e9);
    CHECK(meter.costs().host_us_per_byte[0] < 60e-6);
    for (int i = 0; i < 1000; i++) {
        meter.on_host_unused();
    }
    CHECK(meter.costs().host_us_per_byte[0] < 1e-6);
    for (uint64_t i = 2; i < 100; i++) { // the link became half as fast
        meter.on_copied(i * 100'000'000, 10'000 + (i - 1) * 20'000);
    }
    CHECK(meter.costs().copy_us_per_byte == doctest::Approx(2e-4).epsilon(0.01));
}

TEST_CASE("what the host needs to begin is told from what a byte costs") {
    CostMeter meter;
    for (uint32_t i = 0; i < 400; i++) {
        for (const Precision precision : {Precision::hi, Precision::lo}) {
            HostWork work;
            for (uint32_t part = 0; part < 1 + i % 5; part++) {
                work.add(precision, 1'500'000, 1);
            }
            const double us_per_byte = precision == Precision::hi ? 20e-6 : 35e-6;
            work.duration_us         = 50 + work.effective[static_cast<int>(precision)] * us_per_byte;
            meter.on_host_work(work);
        }
    }
    CHECK(meter.costs().host_start_us == doctest::Approx(50).epsilon(0.05));
    CHECK(meter.costs().host_us_per_byte[0] == doctest::Approx(20e-6).epsilon(0.05));
    CHECK(meter.costs().host_us_per_byte[1] == doctest::Approx(35e-6).epsilon(0.05));
}

} // namespace

} // namespace hobbit
