#include "cache/arena.h"

#include "base/types.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <new>
#include <utility>

namespace hobbit {

namespace {

// An expert matmul streams through megabytes of weights; huge pages keep its TLB misses down.
constexpr uint64_t huge_page_bytes = 2 << 20;

uint64_t page_bytes() {
    static const uint64_t n = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return n;
}

#ifdef MAP_NORESERVE
constexpr int map_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
constexpr int map_flags = MAP_PRIVATE | MAP_ANONYMOUS;
#endif

#ifdef __APPLE__
using PageState = char;
#else
using PageState = unsigned char;
#endif

void unmap(std::byte * data, uint64_t n_bytes) {
    if (n_bytes > 0) {
        munmap(data, n_bytes);
    }
}

} // namespace

Arena::Arena(uint64_t n_bytes) {
    if (n_bytes == 0) {
        return;
    }
    // A huge page can only start on its own multiple, so a large arena maps one page more and trims both ends.
    const bool     is_large = n_bytes >= huge_page_bytes;
    const uint64_t n_slack  = page_bytes() + (is_large ? huge_page_bytes : 0);
    if (n_bytes > UINT64_MAX - n_slack || n_bytes + n_slack > SIZE_MAX) {
        throw std::bad_alloc();
    }
    const uint64_t n_kept   = align_up(n_bytes, page_bytes());
    const uint64_t n_mapped = n_kept + (is_large ? huge_page_bytes : 0);
    void *         base     = mmap(nullptr, n_mapped, PROT_READ | PROT_WRITE, map_flags, -1, 0);
    if (base == MAP_FAILED) {
        throw std::bad_alloc();
    }
    data_    = static_cast<std::byte *>(base);
    n_bytes_ = n_bytes;
    if (is_large) {
        const uint64_t n_head =
            align_up(reinterpret_cast<uintptr_t>(base), huge_page_bytes) - reinterpret_cast<uintptr_t>(base);
        unmap(data_, n_head);
        data_ += n_head;
        unmap(data_ + n_kept, huge_page_bytes - n_head);
#ifdef MADV_HUGEPAGE
        madvise(data_, n_kept, MADV_HUGEPAGE); // a hint: kernels without huge pages refuse it
#endif
    }
}

Arena::Arena(std::byte * data, uint64_t n_bytes, std::function<void()> release)
    : data_(data), n_bytes_(n_bytes), release_(std::move(release)) {}

Arena::~Arena() {
    if (release_) {
        release_();
    } else if (data_ != nullptr) {
        unmap(data_, align_up(n_bytes_, page_bytes()));
    }
}

uint64_t Arena::resident_bytes() const {
    if (!is_lazy()) {
        return n_bytes_;
    }
    PageState      states[4096];
    const uint64_t step_bytes = page_bytes() * std::size(states);
    uint64_t       n_resident = 0;
    for (uint64_t begin = 0; begin < n_bytes_; begin += step_bytes) {
        const uint64_t n = std::min(step_bytes, n_bytes_ - begin);
        if (mincore(data_ + begin, n, states) != 0) {
            continue; // not known: not there
        }
        for (uint64_t offset = 0; offset < n; offset += page_bytes()) {
            n_resident += (states[offset / page_bytes()] & 1) != 0 ? std::min(page_bytes(), n - offset) : 0;
        }
    }
    return n_resident;
}

Arena::Arena(Arena && o) noexcept
    : data_(std::exchange(o.data_, nullptr)), n_bytes_(std::exchange(o.n_bytes_, 0)),
      release_(std::exchange(o.release_, nullptr)) {}

Arena & Arena::operator=(Arena && o) noexcept {
    std::swap(data_, o.data_);
    std::swap(n_bytes_, o.n_bytes_);
    std::swap(release_, o.release_);
    return *this;
}

} // namespace hobbit
