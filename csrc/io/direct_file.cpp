#include "io/direct_file.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hobbit {

namespace {

// -1 if the file system refuses `flags`; throws if the file cannot be opened for another reason.
int open_file(const std::string & path, int flags) {
    int fd = -1;
    do {
        fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    } while (fd < 0 && errno == EINTR);
    const bool refused = flags != 0 && (errno == EINVAL || errno == EOPNOTSUPP);
    if (fd < 0 && !refused) {
        throw std::system_error(errno, std::generic_category(), "cannot open " + path);
    }
    return fd;
}

int open_direct(const std::string & path, bool try_direct) {
#ifdef O_DIRECT
    return try_direct ? open_file(path, O_DIRECT) : -1;
#else
    (void)path;
    (void)try_direct;
    return -1;
#endif
}

int open_buffered(const std::string & path) {
    const int fd = open_file(path, 0);
#if defined(F_NOCACHE)
    ::fcntl(fd, F_NOCACHE, 1);
#elif defined(POSIX_FADV_RANDOM)
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
#endif
    return fd;
}

} // namespace

FileVersion FileVersion::of(int fd) {
    struct stat info = {};
    if (::fstat(fd, &info) != 0) {
        return {};
    }
#ifdef __APPLE__
    const timespec & changed = info.st_mtimespec;
#else
    const timespec & changed = info.st_mtim;
#endif
    return {info.st_size, changed.tv_sec, changed.tv_nsec};
}

FileDescriptor::~FileDescriptor() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

DirectFile::DirectFile(const std::string & path, bool try_direct)
    : path_(path), buffered_(open_buffered(path)), direct_(open_direct(path, try_direct)),
      version_(FileVersion::of(buffered_.get())), use_direct_(direct_.is_open()) {}

bool DirectFile::is_unchanged() const { return FileVersion::of(buffered_.get()) == version_; }

uint32_t DirectFile::alignment() const {
#ifdef STATX_DIOALIGN
    struct statx info = {};
    if (::statx(buffered_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
        (info.stx_mask & STATX_DIOALIGN) != 0 && info.stx_dio_offset_align != 0) {
        return std::max({min_align, info.stx_dio_mem_align, info.stx_dio_offset_align});
    }
#endif
    return default_align;
}

void DirectFile::drop_from_page_cache(uint64_t offset, uint64_t n_bytes) const {
#ifdef POSIX_FADV_DONTNEED
    // The kernel keeps pages that are covered in part only, so ask for whole ones.
    static const uint64_t page  = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t        begin = align_down(offset, page);
    const uint64_t        end   = align_up(offset + n_bytes, page);
    ::posix_fadvise(buffered_.get(), static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
#else
    (void)offset;
    (void)n_bytes;
#endif
}

} // namespace hobbit
