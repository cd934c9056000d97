#include "cache/expert_cache.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <utility>

using namespace hobbit;

namespace {

constexpr uint64_t align = 64;

// Layers 0 and 2 share a class, 1 has another one, 2 has lo copies too; 3 has no experts.
CopyLayouts make_layouts() {
    const auto spec = [](uint16_t layer_idx, Precision precision, uint32_t n_expert, uint64_t n_bytes) {
        CopySpec s;
        s.layer_idx = layer_idx;
        s.precision = precision;
        s.n_expert  = n_expert;
        s.n_used    = 1;
        s.parts     = {{0, n_bytes}};
        return s;
    };
    return make_copy_layouts({spec(0, Precision::hi, 6, 128), spec(1, Precision::hi, 5, 256),
                              spec(2, Precision::hi, 6, 128), spec(2, Precision::lo, 6, 64)},
                             align);
}

std::vector<ExpertKey> all_keys(const CopyLayouts & layouts) {
    std::vector<ExpertKey> keys;
    for (const Precision precision : {Precision::hi, Precision::lo}) {
        for (uint16_t layer_idx = 0; layer_idx < 4; layer_idx++) {
            const uint32_t n = layouts.has(layer_idx, precision) ? layouts.of({layer_idx, 0, precision}).n_expert : 0;
            for (uint16_t e = 0; e < n; e++) {
                keys.push_back({layer_idx, e, precision});
            }
        }
    }
    return keys;
}

int id_of(ExpertKey key) { return static_cast<int>(key.precision) * 10000 + key.layer_idx * 100 + key.expert_idx; }

// What the cache promises, written down without slots or free lists.
struct Model {
    struct Copy {
        ExpertKey key;
        uint32_t  n_pins = 0;
    };
    std::map<int, Copy> copies; // by id

    uint32_t n_in_class(const CopyLayouts & layouts, uint32_t class_idx) const {
        uint32_t n = 0;
        for (const auto & [id, copy] : copies) {
            n += layouts.of(copy.key).class_idx == class_idx ? 1 : 0;
        }
        return n;
    }
};

} // namespace

TEST_CASE("the cache agrees with a naive model over random operations") {
    const CopyLayouts            layouts = make_layouts();
    const std::vector<ExpertKey> keys    = all_keys(layouts);
    REQUIRE(layouts.classes.size() == 3);
    for (uint32_t seed = 0; seed < 20; seed++) {
        CAPTURE(seed);
        std::mt19937          rng(seed);
        const auto            draw = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(rng); };
        std::map<int, double> scores;
        for (const ExpertKey & key : keys) {
            scores[id_of(key)] = static_cast<double>(draw(1000000));
        }
        std::vector<uint32_t> n_slots;
        for (size_t i = 0; i < layouts.classes.size(); i++) {
            n_slots.push_back(static_cast<uint32_t>(draw(5)));
        }
        ExpertCache cache(layouts, n_slots, [&](ExpertKey key) { return scores[id_of(key)]; });
        Model       model;
        uint64_t    n_evictions = 0;

        for (int step = 0; step < 2000; step++) {
            const ExpertKey key   = keys[draw(keys.size())];
            const auto      found = model.copies.find(id_of(key));
            const SlotRef   slot  = cache.find(key);
            REQUIRE(bool(slot) == (found != model.copies.end()));
            if (slot) {
                REQUIRE(cache.key_of(slot) == key);
                REQUIRE(cache.n_pins(slot) == found->second.n_pins);
                switch (draw(3)) {
                case 0:
                    cache.pin(slot);
                    found->second.n_pins++;
                    break;
                case 1:
                    if (found->second.n_pins > 0) {
                        cache.unpin(slot);
                        found->second.n_pins--;
                    }
                    break;
                default:
                    if (found->second.n_pins == 0) {
                        cache.erase(slot);
                        model.copies.erase(found);
                    }
                }
            } else {
                scores[id_of(key)]        = static_cast<double>(draw(1000000));
                const Admission admission = draw(2) == 0 ? Admission::always : Admission::if_better;
                const uint32_t  class_idx = layouts.of(key).class_idx;
                bool            fits      = model.n_in_class(layouts, class_idx) < n_slots[class_idx];
                if (!fits) {
                    const Model::Copy * victim = nullptr;
                    for (const auto & [id, copy] : model.copies) {
                        if (layouts.of(copy.key).class_idx == class_idx && copy.n_pins == 0 &&
                            (victim == nullptr || scores[id] < scores[id_of(victim->key)])) {
                            victim = &copy;
                        }
                    }
                    if (victim != nullptr &&
                        (admission == Admission::always || scores[id_of(key)] >= scores[id_of(victim->key)])) {
                        fits = true;
                        n_evictions++;
                        model.copies.erase(id_of(victim->key));
                    }
                }
                REQUIRE(bool(cache.insert(key, admission)) == fits);
                if (fits) {
                    model.copies[id_of(key)] = {key, 0};
                }
            }
            cache.check_invariants();
            REQUIRE(cache.n_evictions() == n_evictions);
            bool same_residents = true;
            for (const ExpertKey & k : keys) {
                same_residents = same_residents && bool(cache.find(k)) == (model.copies.count(id_of(k)) == 1);
            }
            REQUIRE(same_residents);
            for (size_t c = 0; c < n_slots.size(); c++) {
                REQUIRE(cache.n_slots(static_cast<int32_t>(c)) == n_slots[c]);
                REQUIRE(cache.n_free(static_cast<int32_t>(c)) ==
                        n_slots[c] - model.n_in_class(layouts, static_cast<uint32_t>(c)));
            }
        }
    }
}

TEST_CASE("a pinned copy stays until its last pin goes") {
    const CopyLayouts layouts = make_layouts();
    ExpertCache       cache(layouts, {1, 0, 0}, [](ExpertKey) { return 0.0; });
    const SlotRef     slot = cache.insert({0, 0, Precision::hi}, Admission::always);
    REQUIRE(bool(slot));
    cache.pin(slot);
    cache.pin(slot);
    CHECK_FALSE(bool(cache.insert({0, 1, Precision::hi}, Admission::always)));
    cache.unpin(slot);
    CHECK_FALSE(bool(cache.insert({2, 1, Precision::hi}, Admission::always)));
    cache.unpin(slot);
    CHECK(cache.insert({2, 1, Precision::hi}, Admission::always) == slot);
    CHECK_FALSE(bool(cache.find({0, 0, Precision::hi})));
    CHECK(cache.n_evictions() == 1);
    cache.check_invariants();
}

TEST_CASE("if_better turns away a copy that is worth less than all residents") {
    const CopyLayouts layouts = make_layouts();
    ExpertCache       cache(layouts, {2, 1, 1}, [](ExpertKey key) { return static_cast<double>(key.expert_idx); });
    cache.insert({0, 2, Precision::hi}, Admission::if_better);
    cache.insert({0, 3, Precision::hi}, Admission::if_better);
    CHECK_FALSE(bool(cache.insert({0, 1, Precision::hi}, Admission::if_better)));
    CHECK(cache.n_evictions() == 0);
    CHECK(bool(cache.insert({2, 2, Precision::hi}, Admission::if_better))); // equal: the newer one
    CHECK_FALSE(bool(cache.find({0, 2, Precision::hi})));
    CHECK(bool(cache.insert({0, 1, Precision::hi}, Admission::always)));
    CHECK_FALSE(bool(cache.find({2, 2, Precision::hi})));
    CHECK(bool(cache.find({0, 3, Precision::hi})));
    cache.check_invariants();
}

TEST_CASE("a class without slots admits nothing") {
    const CopyLayouts layouts = make_layouts();
    ExpertCache       cache(layouts, {0, 0, 0}, [](ExpertKey) { return 0.0; });
    CHECK_FALSE(bool(cache.insert({1, 0, Precision::hi}, Admission::always)));
    CHECK_FALSE(bool(cache.find({1, 0, Precision::hi})));
    cache.check_invariants();
}

TEST_CASE("a copy whose own slot is closed gets another one") {
    const CopyLayouts layouts = make_layouts();
    const ExpertKey   last{2, 5, Precision::hi}; // of the twelve of its class
    const int32_t     class_idx = static_cast<int32_t>(layouts.of(last).class_idx);
    ExpertCache       cache(layouts, {12, 4, 6}, [](ExpertKey key) { return key.expert_idx; });
    CHECK(cache.own_slot(last) == 11);
    CHECK(cache.own_slot({1, 2, Precision::hi}) == -1);
    cache.close(class_idx, 10);
    const SlotRef slot = cache.insert(last, Admission::always);
    CHECK(slot.slot_idx < 10);
    cache.erase(slot);
    cache.open(class_idx);
    CHECK(cache.insert(last, Admission::always).slot_idx == 11);
    cache.check_invariants();
}
