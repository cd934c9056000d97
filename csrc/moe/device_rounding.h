// Which products with experts the host can round as the device does.
//
// What a device's kernels round, and when, is nowhere promised, and depends on its architecture and on how it was
// compiled. So some products are computed both ways when a model is loaded, and must agree bit by bit.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"
#include "kernels/mmvq.h"

#include <cstdint>
#include <functional>
#include <set>
#include <utility>

namespace hobbit {

// Of weights: their type and how many inputs a row has.
using RowShape = std::pair<ggml_type, int64_t>;

class DeviceRounding {
  public:
    // None.
    DeviceRounding() = default;
    // Tries each shape for which there is a kernel, as far as the device has memory for that.
    static DeviceRounding tried(ggml_backend_dev_t device, const std::set<RowShape> & shapes);
    // All for which there is a kernel, whatever the device computes: for tests.
    static DeviceRounding assumed(const std::set<RowShape> & shapes);

    // Of one token.
    bool covers(ggml_type type, int64_t n_in) const { return alike_.count({type, n_in}) != 0; }
    // For every shape that it was asked about, which are some.
    bool covers_all() const { return is_for_all_; }

  private:
    using IsAlike = std::function<bool(const kernels::MmvqKernel & kernel, const RowShape & shape)>;
    DeviceRounding(const std::set<RowShape> & shapes, const IsAlike & is_alike);

    std::set<RowShape> alike_;
    bool               is_for_all_ = false;
};

} // namespace hobbit
