#include "moe/router_filter_step.h"

#include <doctest/doctest.h>

using namespace hobbit;

TEST_CASE("a selection of another kind is refused by the architecture's name") {
    ModelExperts model;
    model.architecture  = "hashed";
    model.router_filter = {"cache-prior", 0.5f, 1};
    model.router_filter_version++;
    RouterFilterStep step;
    step.begin_graph(&model);

    ggml_tensor ids{}; // no view of sorted ids
    ids.ne[0] = 2;
    ids.ne[1] = 1;
    ggml_tensor sorted{};
    LayerView   view;
    view.model          = &model;
    view.layer_idx      = 3;
    view.ids            = &ids;
    ids.view_src        = &sorted;
    const Status status = step.check(view);
    CHECK_FALSE(status.ok());
    CHECK(status.message() ==
          "the router filter cache-prior does not work with the architecture hashed: layer 3 selects "
          "its experts in another way; leave the filter out");
    ids.ne[1] = 9; // a prompt is not filtered
    CHECK(step.check(view).ok());
    ids.ne[1]           = 1;
    model.router_filter = {};
    model.router_filter_version++;
    step.begin_graph(&model);
    CHECK(step.check(view).ok());
}
