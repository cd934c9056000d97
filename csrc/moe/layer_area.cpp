#include "moe/layer_area.h"

namespace hobbit {

LayerArea::Hold LayerArea::take() {
    MutexLock lock(mu_);
    while (is_taken_) {
        changed_.wait(mu_);
    }
    is_taken_ = true;
    return Hold(*this);
}

LayerArea::Hold & LayerArea::Hold::operator=(Hold && o) noexcept {
    if (this != &o) {
        give_back();
        area_ = std::exchange(o.area_, nullptr);
    }
    return *this;
}

void LayerArea::Hold::give_back() {
    LayerArea * area = std::exchange(area_, nullptr);
    if (area == nullptr) {
        return;
    }
    {
        MutexLock lock(area->mu_);
        area->is_taken_ = false;
    }
    area->changed_.notify_one();
}

} // namespace hobbit
