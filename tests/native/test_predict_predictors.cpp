#include "predict/hybrid.h"
#include "predict/predictor.h"
#include "predict/request_traces.h"
#include "predict/trained_gates.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

using namespace hobbit;

namespace {

// Three layers of four experts, the second without any; two are used.
const PredictorModel model = {{4, 0, 4, 4}, 2};

PredictionTarget target_of(uint16_t layer_idx, uint16_t source_layer_idx, uint32_t distance,
                           const std::vector<float> & logits = {}) {
    PredictionTarget target;
    target.layer_idx        = layer_idx;
    target.source_layer_idx = source_layer_idx;
    target.distance         = distance;
    target.n_expert         = 4;
    target.n_tokens         = logits.empty() ? 1 : static_cast<uint32_t>(logits.size() / 4);
    target.gate_logits      = logits.empty() ? nullptr : logits.data();
    return target;
}

void observe(Predictor & predictor, uint16_t layer_idx, const std::vector<int32_t> & ids) {
    predictor.observe(layer_idx, ids.data(), 2, static_cast<uint32_t>(ids.size() / 2));
}

float sum(const std::vector<float> & row) { return std::accumulate(row.begin(), row.end(), 0.0f); }

} // namespace

TEST_CASE("stacked gates are a softmax a token, and nothing without gates") {
    const auto         predictor = make_predictor("stacked-gates", model, {});
    std::vector<float> rows;
    CHECK(predictor->gates() == Gates::routers);
    CHECK(predictor->predict(target_of(2, 0, 1), rows) == 0);
    CHECK(predictor->predict(target_of(2, 0, 1, {0, 1, 2, 3, 9, 0, 0, 0}), rows) == 2);
    REQUIRE(rows.size() == 8);
    CHECK(rows[3] > rows[2]);
    CHECK(rows[4] > 0.99f);
    CHECK(sum(rows) == doctest::Approx(2.0));
}

TEST_CASE("trained gates fit a model whose layers have their rows, and no other") {
    const std::vector<uint16_t> rows(3 * 12 * 2); // own and those of the layer after: 8, then 4
    const auto                  make = [&rows](uint32_t n_ahead, std::vector<size_t> n_rows) {
        TrainedGates gates;
        gates.n_embd  = 2;
        gates.n_ahead = n_ahead;
        size_t first  = 0;
        for (const size_t n : n_rows) {
            gates.layers.push_back({first, std::vector<float>(n)});
            first += n;
        }
        gates.set_rows(rows.data(), first);
        return gates;
    };
    CHECK_NOTHROW(make(1, {8, 0, 8, 4}).check({{4, 0, 4, 4}, 2}));
    CHECK_NOTHROW(make(0, {4, 0, 4}).check({{4, 0, 4}, 2}));
    CHECK_THROWS_AS(make(1, {8, 0, 8, 4}).check({{4, 0, 4}, 2}), std::invalid_argument);
    CHECK_THROWS_AS(make(1, {8, 0, 8, 4}).check({{4, 4, 4, 4}, 2}), std::invalid_argument);
    CHECK_THROWS_AS(make(2, {8, 0, 8, 4}).check({{4, 0, 4, 4}, 2}), std::invalid_argument);
    CHECK_THROWS_AS(make_predictor("trained-gates", model, {}), std::invalid_argument);

    PredictorShared shared;
    shared.trained       = std::make_shared<TrainedGates>(make(1, {8, 0, 4}));
    const auto predictor = make_predictor("trained-gates", model, shared);
    CHECK(predictor->gates() == Gates::trained);
    CHECK(predictor->name() == std::string("trained-gates"));
}

TEST_CASE("a chance is a number that an F16 holds") {
    CHECK(as_chance(-0.5f) == 0.0f);
    CHECK(as_chance(1.5f) == 1.0f);
    CHECK(as_chance(0.3f) * 2048.0f == std::round(0.3f * 2048.0f));
}

TEST_CASE("the previous token's last row is what is guessed") {
    const auto         predictor = make_predictor("previous-token", model, {});
    std::vector<float> rows;
    CHECK(predictor->predict(target_of(2, 0, 1), rows) == 0);
    observe(*predictor, 2, {0, 1, 3, 2});
    CHECK(predictor->predict(target_of(2, 0, 1), rows) == 1);
    CHECK(rows == std::vector<float>{0, 0, 0.5f, 0.5f});
}

TEST_CASE("a full set of traces replaces the one most like the newcomer") {
    RequestTraces traces(4, 2);
    traces.insert(Phase::decode, {1, 0, 0, 0});
    traces.insert(Phase::decode, {0, 0, 1, 1});
    traces.insert(Phase::decode, {0, 0, 0, 0}); // nobody used anything
    traces.insert(Phase::decode, {5, 1, 0, 0});
    const auto set = traces.snapshot(Phase::decode);
    REQUIRE(set->size() == 2);
    CHECK((*set)[0]->counts == std::vector<float>{5, 1, 0, 0});
    CHECK((*set)[1]->counts == std::vector<float>{0, 0, 1, 1});
    CHECK(traces.snapshot(Phase::prompt)->empty());
    CHECK_THROWS_AS(traces.insert(Phase::decode, {1}), std::invalid_argument);
}

TEST_CASE("requests that began alike say how this one goes on") {
    const auto traces = std::make_shared<RequestTraces>(12);
    traces->insert(Phase::decode, {9, 9, 0, 0, /**/ 9, 9, 0, 0, /**/ 9, 9, 0, 0});
    traces->insert(Phase::decode, {0, 0, 9, 9, /**/ 0, 0, 9, 9, /**/ 0, 0, 9, 9});
    const auto predictor = make_predictor("request-trace", model, {traces, nullptr, nullptr, nullptr});
    predictor->begin_pass(nullptr, 1);
    std::vector<float> rows;
    CHECK(predictor->predict(target_of(2, 0, 1), rows) == 0); // nothing to match yet
    observe(*predictor, 0, {3, 2});
    REQUIRE(predictor->predict(target_of(2, 0, 1), rows) == 1);
    CHECK(rows[2] > rows[0]);
    CHECK(rows[3] > rows[1]);
    CHECK(sum(rows) == doctest::Approx(1.0));
}

TEST_CASE("incremental matching agrees with matching anew") {
    const auto traces = std::make_shared<RequestTraces>(12);
    for (int i = 0; i < 20; i++) {
        std::vector<float> counts;
        for (int cell = 0; cell < 12; cell++) {
            counts.push_back(static_cast<float>((i * 7 + cell * cell * 3) % 11));
        }
        traces->insert(Phase::decode, counts);
    }
    const auto         kept = make_predictor("request-trace", model, {traces, nullptr, nullptr, nullptr});
    std::vector<float> request(12, 0.0f);
    for (int token = 0; token < 5; token++) {
        kept->begin_pass(nullptr, 1);
        for (const uint16_t layer_idx : {uint16_t{0}, uint16_t{2}, uint16_t{3}}) {
            const std::vector<int32_t> ids = {(token + layer_idx) % 4, (token * 3 + layer_idx + 1) % 4};
            observe(*kept, layer_idx, ids);
            for (const int32_t id : ids) {
                request[static_cast<size_t>((layer_idx == 0 ? 0 : layer_idx - 1) * 4 + id)] += 1;
            }
            // The same from nothing: the best eight by cosine, weighed by it, and the request itself.
            RequestTraces one(12);
            one.insert(Phase::decode, request);
            const ActivationMatrix &                                 own = *(*one.snapshot(Phase::decode))[0];
            std::vector<std::pair<double, const ActivationMatrix *>> best;
            const auto                                               set = traces->snapshot(Phase::decode);
            for (const auto & trace : *set) {
                best.emplace_back(cosine(*trace, own), trace.get());
            }
            std::stable_sort(best.begin(), best.end(),
                             [](const auto & a, const auto & b) { return a.first > b.first; });
            best.resize(8);
            best.emplace_back(1.0, &own);
            std::vector<double> expected(4, 0.0);
            double              total = 0;
            for (const auto & [weight, matrix] : best) {
                const float * row = matrix->counts.data() + 4;
                const double  n   = row[0] + row[1] + row[2] + row[3];
                for (size_t i = 0; n > 0 && i < 4; i++) {
                    expected[i] += weight * static_cast<double>(row[i]) / n;
                }
                total += n > 0 ? weight : 0;
            }
            std::vector<float> rows;
            REQUIRE(kept->predict(target_of(2, layer_idx, 1), rows) == 1);
            for (size_t i = 0; i < 4; i++) {
                CHECK(static_cast<double>(rows[i]) == doctest::Approx(expected[i] / total).epsilon(1e-4));
            }
        }
    }
}

TEST_CASE("a prompt after decoding ends the request, and the next one knows it") {
    const auto                 traces    = std::make_shared<RequestTraces>(12);
    auto                       predictor = make_predictor("request-trace", model, {traces, nullptr, nullptr, nullptr});
    const std::vector<int32_t> prompt(18, 1);
    predictor->begin_pass(nullptr, 9);
    predictor->observe(0, prompt.data(), 2, 9);
    predictor->begin_pass(nullptr, 1);
    observe(*predictor, 0, {2, 3});
    CHECK(traces->snapshot(Phase::prompt)->empty());
    predictor->begin_pass(nullptr, 9);
    REQUIRE(traces->snapshot(Phase::prompt)->size() == 1);
    REQUIRE(traces->snapshot(Phase::decode)->size() == 1);
    CHECK((*traces->snapshot(Phase::prompt))[0]->counts[1] == 18.0f);
    CHECK((*traces->snapshot(Phase::decode))[0]->counts[2] == 1.0f);
    predictor->observe(0, prompt.data(), 2, 9);
    predictor.reset(); // so does the end of the context
    CHECK(traces->snapshot(Phase::prompt)->size() == 2);
}

TEST_CASE("a new sequence ends the request, also one without a prompt, and has no previous token") {
    const auto traces    = std::make_shared<RequestTraces>(12);
    auto       predictor = make_predictor("request-trace", model, {traces, nullptr, nullptr, nullptr});
    auto       previous  = make_predictor("previous-token", model, {});
    for (uint32_t n_known = 0; n_known < 3; n_known++) {
        CHECK(traces->snapshot(Phase::decode)->size() == n_known);
        std::vector<float> rows;
        CHECK(previous->predict(target_of(0, 0, 1), rows) == 0);
        for (Predictor * p : {predictor.get(), previous.get()}) {
            p->begin_pass(nullptr, 1);
            observe(*p, 0, {2, 3});
            p->begin_sequence();
        }
    }
}

TEST_CASE("the hybrid adds what it learned to the gates' logits") {
    auto weights          = std::make_shared<HybridWeights>();
    weights->token_rows   = {0, 1};
    weights->n_token_rows = 2;
    weights->maps.resize(4);
    HybridMap map{std::vector<float>((4 + 4 + 2 + 1) * 4, 0.0f)};
    map.shifts[3 * 4 + 0]              = 5.0f;  // the source selected 3: expert 0
    map.shifts[(4 + 1) * 4 + 1]        = 10.0f; // the token before selected 1 there: expert 1
    map.shifts[(4 + 4 + 1) * 4 + 2]    = 20.0f; // the token is 1: expert 2
    map.shifts[(4 + 4 + 2) * 4 + 3]    = -1.0f; // always
    weights->maps[2]                   = {map};
    const auto               predictor = make_predictor("hybrid", model, {nullptr, weights, nullptr, nullptr});
    const std::vector<float> gates     = {0, 0, 0, 2};
    const auto               best      = [&](const std::vector<float> & rows) {
        return std::max_element(rows.begin(), rows.end()) - rows.begin();
    };
    const auto guess = [&](int32_t token, const std::vector<int32_t> & source) {
        predictor->begin_pass(&token, 1);
        observe(*predictor, 0, source);
        std::vector<float> rows;
        CHECK(predictor->predict(target_of(2, 0, 1, gates), rows) == 1);
        return best(rows);
    };
    CHECK(guess(0, {0, 1}) == 3); // what the gates say
    CHECK(guess(0, {3, 1}) == 0);
    CHECK(guess(1, {3, 1}) == 2);
    observe(*predictor, 2, {1, 2});
    CHECK(guess(0, {3, 1}) == 1);
    weights->maps[2][0].shifts.pop_back();
    CHECK_THROWS_AS(make_predictor("hybrid", model, {nullptr, weights, nullptr, nullptr}), std::invalid_argument);
    CHECK_THROWS_AS(make_predictor("hybrid", model, {}), std::invalid_argument);
    CHECK_THROWS_AS(make_predictor("oracle", model, {}), std::invalid_argument);
}
