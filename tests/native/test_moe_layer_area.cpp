// The area of a layer's experts is one context's at a time.
#include "moe/layer_area.h"

#include <doctest/doctest.h>

#include <thread>
#include <utility>
#include <vector>

using namespace hobbit;

TEST_CASE("whoever has it is alone with it") {
    LayerArea                area(Arena(4096));
    int                      n_inside = 0, n_times = 0, most_inside = 0; // guarded by the area
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&] {
            for (int i = 0; i < 200; i++) {
                const LayerArea::Hold hold = area.take();
                n_inside++;
                most_inside = n_inside > most_inside ? n_inside : most_inside;
                n_times++;
                hold.data()[0] = std::byte{1};
                n_inside--;
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    CHECK(n_times == 800);
    CHECK(most_inside == 1);
}

TEST_CASE("a hold is given back once, wherever it was moved") {
    LayerArea       area(Arena(4096));
    LayerArea::Hold hold = area.take();
    CHECK(hold);
    LayerArea::Hold moved = std::move(hold);
    CHECK(moved);
    moved.give_back();
    CHECK_FALSE(moved);
    moved.give_back();
    LayerArea::Hold again;
    CHECK_FALSE(again);
    again = area.take();
    again = LayerArea::Hold(); // gives it back
    CHECK(area.take());
}
