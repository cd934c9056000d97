// A device of its own memory with a scripted cost of copies, for the tests of the tier.
#pragma once

#include "base/mutex.h"
#include "cache/copy_layout.h"
#include "tier/device_memory.h"

#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

namespace hobbit::testing {

// Copies happen when they are waited for, never before: what is used too early is still empty.
class FakeDevice final : public DeviceMemory {
  public:
    struct Begun {
        uint32_t area_idx = 0;
        uint64_t offset   = 0;
        uint64_t n_bytes  = 0;
    };

    explicit FakeDevice(const std::vector<uint64_t> & area_bytes, double us_per_byte = 0.0)
        : us_per_byte_(us_per_byte) {
        for (const uint64_t n : area_bytes) {
            areas_.emplace_back(n);
        }
    }

    void copy(uint32_t area_idx, uint64_t offset, const std::byte * src, uint64_t n_bytes) override {
        MutexLock lock(mu_);
        under_way_.push_back({area_idx, offset, src, n_bytes});
        begun_.push_back({area_idx, offset, n_bytes});
    }

    void wait(uint32_t n_left) override {
        for (;;) {
            Copy next;
            {
                MutexLock lock(mu_);
                if (under_way_.size() <= n_left) {
                    return;
                }
                next = under_way_.front();
                under_way_.pop_front();
            }
            if (us_per_byte_ > 0) {
                std::this_thread::sleep_for(
                    std::chrono::duration<double, std::micro>(us_per_byte_ * static_cast<double>(next.n_bytes)));
            }
            std::memcpy(areas_[next.area_idx].data() + next.offset, next.src, next.n_bytes);
        }
    }

    // Nobody copies there meanwhile.
    const std::byte * data(uint32_t area_idx, uint64_t offset) const { return areas_[area_idx].data() + offset; }

    std::vector<Begun> begun() const {
        MutexLock lock(mu_);
        return begun_;
    }

  private:
    struct Copy {
        uint32_t          area_idx = 0;
        uint64_t          offset   = 0;
        const std::byte * src      = nullptr;
        uint64_t          n_bytes  = 0;
    };

    const double                        us_per_byte_;
    std::vector<std::vector<std::byte>> areas_;
    mutable Mutex                       mu_;
    std::deque<Copy> under_way_         HOBBIT_GUARDED_BY(mu_);
    std::vector<Begun> begun_           HOBBIT_GUARDED_BY(mu_);
};

} // namespace hobbit::testing
