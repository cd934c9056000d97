// The memory that slots and stream buffers live in: anonymous, page-aligned, mapped once; or somebody else's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace hobbit {

class Arena {
  public:
    Arena() = default;
    // Reserves `n_bytes`; pages are committed when they are first written. Throws std::bad_alloc.
    explicit Arena(uint64_t n_bytes);
    // Over memory that `release` gives back.
    Arena(std::byte * data, uint64_t n_bytes, std::function<void()> release);
    ~Arena();
    Arena(Arena && o) noexcept;
    Arena & operator=(Arena && o) noexcept;
    Arena(const Arena &)             = delete;
    Arena & operator=(const Arena &) = delete;

    std::byte * data() const { return data_; }
    uint64_t    n_bytes() const { return n_bytes_; }
    uint64_t    resident_bytes() const;               // in RAM now, whoever wrote them; of somebody else's memory all
    bool        is_lazy() const { return !release_; } // pages are committed when they are first written

  private:
    std::byte *           data_    = nullptr;
    uint64_t              n_bytes_ = 0;
    std::function<void()> release_; // empty: mapped by us
};

// Makes the memory of the experts in RAM. Throws std::bad_alloc.
using MakeArena = std::function<Arena(uint64_t n_bytes)>;

} // namespace hobbit
