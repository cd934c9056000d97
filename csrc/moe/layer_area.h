// Memory for all experts of one layer, each at its own place, as in the tensor that a model file has: for batches on a
// device that computes with the host's memory (UnifiedLayer). One context uses it at a time.
//
// It has memory of its own. Slots that are lent, as those of a device's own memory are (tier/staging.h), would have to
// be read from the drive again after every prompt.
#pragma once

#include "base/mutex.h"
#include "cache/arena.h"

#include <cstddef>
#include <utility>

namespace hobbit {

class LayerArea {
  public:
    // The right to use it.
    class Hold {
      public:
        Hold() = default;
        explicit Hold(LayerArea & area) : area_(&area) {}
        Hold(Hold && o) noexcept : area_(std::exchange(o.area_, nullptr)) {}
        Hold & operator=(Hold && o) noexcept;
        ~Hold() { give_back(); }

        std::byte * data() const { return area_->arena_.data(); }
        void        give_back();
        explicit    operator bool() const { return area_ != nullptr; }

      private:
        LayerArea * area_ = nullptr;
    };

    explicit LayerArea(Arena arena) : arena_(std::move(arena)) {}

    // Waits for the context that has it. REQUIRES: nothing is held that such a one could wait for: no pins, no reads.
    Hold take();

  private:
    Arena          arena_;
    Mutex          mu_;
    CondVar        changed_;
    bool is_taken_ HOBBIT_GUARDED_BY(mu_) = false;
};

} // namespace hobbit
