// The memory that slots and stream buffers live in: anonymous, page-aligned, mapped once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hobbit {

class Arena {
  public:
    Arena() = default;
    // Reserves `n_bytes`; pages are committed when they are first written. Throws std::bad_alloc.
    explicit Arena(uint64_t n_bytes);
    ~Arena();
    Arena(Arena && o) noexcept;
    Arena & operator=(Arena && o) noexcept;
    Arena(const Arena &)             = delete;
    Arena & operator=(const Arena &) = delete;

    std::byte * data() const { return data_; }
    uint64_t    n_bytes() const { return n_bytes_; }

  private:
    std::byte * data_    = nullptr;
    uint64_t    n_bytes_ = 0;
};

} // namespace hobbit
