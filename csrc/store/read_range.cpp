#include "store/read_range.h"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace hobbit {

Status read_range(const std::string & path, uint64_t offset, std::byte * dst, uint64_t n_bytes) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return Status::error("cannot open " + path, errno);
    }
    while (n_bytes > 0) {
        const ssize_t n = pread(fd, dst, n_bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            close(fd);
            return Status::error("cannot read " + std::to_string(n_bytes) + " bytes at offset " +
                                 std::to_string(offset) + " of " + path);
        }
        dst += n;
        offset += static_cast<uint64_t>(n);
        n_bytes -= static_cast<uint64_t>(n);
    }
    close(fd);
    return {};
}

} // namespace hobbit
