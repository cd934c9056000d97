#include "store/open_file.h"

#include "store/store_error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hobbit {

OpenFile open_file(const std::string & path, const std::string & what) {
    // O_NONBLOCK: opening a FIFO would otherwise wait for its writer; it has no effect on regular files.
    int fd = -1;
    do {
        fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        if (errno == ENOENT) {
            throw StoreError("'" + path + "' does not exist: check the path of " + what + ".");
        }
        throw StoreError("'" + path + "' cannot be opened: " + std::strerror(errno) + ".");
    }

    OpenFile opened;
    opened.file.reset(::fdopen(fd, "rb"));
    if (!opened.file) {
        const int error = errno;
        ::close(fd);
        throw StoreError("'" + path + "' cannot be opened: " + std::strerror(error) + ".");
    }
    struct stat info = {};
    if (::fstat(fd, &info) != 0) {
        throw StoreError("'" + path + "' cannot be examined: " + std::strerror(errno) + ".");
    }
    if (S_ISDIR(info.st_mode)) {
        throw StoreError("'" + path + "' is a folder, not a GGUF file: name the .gguf file in it.");
    }
    if (!S_ISREG(info.st_mode)) {
        throw StoreError("'" + path + "' is not a regular file: name a .gguf file.");
    }
    opened.n_bytes = static_cast<uint64_t>(info.st_size);
    return opened;
}

} // namespace hobbit
