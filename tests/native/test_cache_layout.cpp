#include "cache/arena.h"
#include "cache/copy_layout.h"

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <utility>

using namespace hobbit;

namespace {

CopySpec spec_of(uint16_t layer_idx, Precision precision, uint32_t n_expert, std::vector<CopySpec::Part> parts) {
    CopySpec spec;
    spec.layer_idx = layer_idx;
    spec.precision = precision;
    spec.n_expert  = n_expert;
    spec.n_used    = 2;
    spec.parts     = std::move(parts);
    return spec;
}

uint64_t spent(const std::vector<SizeClass> & classes, const std::vector<uint32_t> & n_slots) {
    uint64_t n = 0;
    for (size_t i = 0; i < classes.size(); i++) {
        n += n_slots[i] * classes[i].slot_bytes;
    }
    return n;
}

SizeClass size_class(Precision precision, uint64_t slot_bytes, uint64_t n_copies) {
    SizeClass c;
    c.precision  = precision;
    c.slot_bytes = slot_bytes;
    c.n_copies   = n_copies;
    return c;
}

} // namespace

TEST_CASE("a congruent part keeps its tensor's place in an aligned block") {
    const CopyLayouts  layouts = make_copy_layouts({spec_of(0, Precision::hi, 4, {{4128, 1024}, {9000, 512}})}, 512);
    const CopyLayout & layout  = layouts.of({0, 0, Precision::hi});
    REQUIRE(layout.parts.size() == 2);
    CHECK(layout.parts[0].congruent);
    CHECK(layout.parts[0].region_offset == 0);
    CHECK(layout.parts[0].data_offset == 32);
    CHECK(layout.parts[1].congruent);
    CHECK(layout.parts[1].region_offset == 1024 + 512);
    CHECK(layout.parts[1].data_offset == 1024 + 512 + 9000 % 512);
    CHECK(layouts.classes[0].slot_bytes == (1024 + 512) + (512 + 512));
}

TEST_CASE("a part whose size is no multiple of the alignment starts its region") {
    const CopyLayouts  layouts = make_copy_layouts({spec_of(0, Precision::hi, 4, {{100, 1000}, {32, 512}})}, 512);
    const CopyLayout & layout  = layouts.of({0, 3, Precision::hi});
    CHECK_FALSE(layout.parts[0].congruent);
    CHECK(layout.parts[0].data_offset == 0);
    CHECK(layout.parts[0].n_bytes == 1000);
    CHECK(layout.parts[1].region_offset == 1024 + 512);
    CHECK(layouts.classes[0].slot_bytes % 512 == 0);
}

TEST_CASE("the aligned range around any part stays in its region") {
    for (uint64_t tensor_offset = 0; tensor_offset < 1024; tensor_offset += 32) {
        for (const uint64_t n_bytes : {512u, 520u, 4096u, 5000u}) {
            const CopyLayouts layouts = make_copy_layouts(
                {spec_of(0, Precision::hi, 2, {{tensor_offset, n_bytes}, {tensor_offset, n_bytes}})}, 512);
            const PartLayout & part = layouts.of({0, 0, Precision::hi}).parts[0];
            const PartLayout & next = layouts.of({0, 0, Precision::hi}).parts[1];
            CHECK(align_down(part.data_offset, 512) >= part.region_offset);
            CHECK(align_up(part.data_offset + part.n_bytes, 512) <= next.region_offset);
            CHECK(align_up(next.data_offset + next.n_bytes, 512) <= layouts.classes[0].slot_bytes);
        }
    }
}

TEST_CASE("layers share a class if precision and region sizes agree") {
    const CopyLayouts layouts = make_copy_layouts(
        {spec_of(0, Precision::hi, 4, {{0, 1024}, {64, 2048}}), spec_of(3, Precision::hi, 8, {{96, 1024}, {0, 2048}}),
         spec_of(1, Precision::hi, 4, {{0, 2048}, {0, 1024}}), spec_of(0, Precision::lo, 4, {{0, 1024}, {0, 2048}})},
        512);
    REQUIRE(layouts.classes.size() == 3);
    CHECK(layouts.of({0, 0, Precision::hi}).class_idx == layouts.of({3, 0, Precision::hi}).class_idx);
    CHECK(layouts.of({0, 0, Precision::hi}).class_idx != layouts.of({1, 0, Precision::hi}).class_idx);
    CHECK(layouts.of({0, 0, Precision::hi}).class_idx != layouts.of({0, 0, Precision::lo}).class_idx);
    CHECK(layouts.classes[layouts.of({0, 0, Precision::hi}).class_idx].n_copies == 12);
    CHECK(layouts.classes[0].max_n_used == 2);
    CHECK(layouts.has(3, Precision::hi));
    CHECK_FALSE(layouts.has(2, Precision::hi));
    CHECK_FALSE(layouts.has(3, Precision::lo));
}

TEST_CASE("the budget goes to classes in proportion to their copies") {
    const std::vector<SizeClass> classes = {size_class(Precision::hi, 1000, 100), size_class(Precision::hi, 2000, 150)};
    CHECK(split_budget(classes, 0, 0.5) == std::vector<uint32_t>{0, 0});
    CHECK(split_budget(classes, 999, 0.5) == std::vector<uint32_t>{0, 0});
    CHECK(split_budget(classes, 40000, 0.5) == std::vector<uint32_t>{10, 15});
    CHECK(split_budget(classes, 400000, 0.5) == std::vector<uint32_t>{100, 150});
    CHECK(split_budget(classes, UINT64_MAX, 0.5) == std::vector<uint32_t>{100, 150});
}

TEST_CASE("lo copies get their share first, and what they cannot use goes to hi") {
    const std::vector<SizeClass> classes = {size_class(Precision::hi, 1000, 100), size_class(Precision::lo, 500, 100)};
    CHECK(split_budget(classes, 20000, 0.5) == std::vector<uint32_t>{10, 20});
    CHECK(split_budget(classes, 20000, 0.0) == std::vector<uint32_t>{20, 0});
    CHECK(split_budget(classes, 20000, 1.0) == std::vector<uint32_t>{0, 40});
    CHECK(split_budget(classes, 120000, 0.5) == std::vector<uint32_t>{70, 100});
    CHECK(split_budget(classes, 120000, 0.0) == std::vector<uint32_t>{100, 40});
}

TEST_CASE("no budget is exceeded, and none is left that a class could use") {
    const std::vector<SizeClass> classes = {size_class(Precision::hi, 1536, 7), size_class(Precision::hi, 4096, 5),
                                            size_class(Precision::lo, 1024, 7), size_class(Precision::lo, 2560, 5)};
    for (uint64_t budget = 0; budget < 64000; budget += 331) {
        for (const double lo_share : {0.0, 0.3, 0.5, 1.0}) {
            const std::vector<uint32_t> n_slots = split_budget(classes, budget, lo_share);
            const uint64_t              n       = spent(classes, n_slots);
            CHECK(n <= budget);
            for (size_t i = 0; i < classes.size(); i++) {
                CHECK(n_slots[i] <= classes[i].n_copies);
                CHECK((n_slots[i] == classes[i].n_copies || n + classes[i].slot_bytes > budget));
            }
        }
    }
}

TEST_CASE("an arena is writable to its last byte and moves") {
    CHECK(Arena(0).data() == nullptr);
    for (const uint64_t n_bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{3 << 20} + 17}) {
        Arena arena(n_bytes);
        CHECK(arena.n_bytes() == n_bytes);
        CHECK(reinterpret_cast<uintptr_t>(arena.data()) % (n_bytes >= (2 << 20) ? 2 << 20 : 4096) == 0);
        std::memset(arena.data(), 7, n_bytes);
        std::byte * const data = arena.data();
        Arena             other(std::move(arena));
        CHECK(other.data() == data);
        arena = std::move(other);
        CHECK(arena.data() == data);
        CHECK(arena.data()[n_bytes - 1] == std::byte{7});
    }
    CHECK_THROWS_AS(Arena(UINT64_MAX), std::bad_alloc);
    CHECK_THROWS_AS(Arena(uint64_t{1} << 60), std::bad_alloc);
}
