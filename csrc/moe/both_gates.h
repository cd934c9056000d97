// The gates that a graph is asked, side by side.
#pragma once

#include "moe/gates_ahead.h"

namespace hobbit {

struct BothGates {
    explicit BothGates(ggml_backend_t backend)
        : routers(backend, make_router_bank(backend)), trained(backend, make_trained_bank(backend)) {}

    void on_node(const ggml_tensor * node) {
        routers.on_node(node);
        trained.on_node(node);
    }
    void add_product(InnerGraph & inner) {
        routers.add_product(inner);
        trained.add_product(inner);
    }
    void want(DeviceReads & reads) const {
        routers.want(reads);
        trained.want(reads);
    }

    GatesAhead routers; // themselves
    GatesAhead trained; // in their place
};

} // namespace hobbit
