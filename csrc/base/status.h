// Result of something that the world can make fail while a token is computed (a read, above all).
//
// Bad input at load time throws (see store/store_error.h); programmer errors assert. Neither reader
// threads nor ggml callbacks may throw, so what fails there comes back as a Status.
#pragma once

#include <string>
#include <utility>

namespace hobbit {

class [[nodiscard]] Status {
  public:
    Status() = default;
    // `path` is the file that could not be read, if it was one.
    static Status error(std::string message, int os_errno = 0, std::string path = {}) {
        return Status(std::move(message), os_errno, std::move(path));
    }

    bool                ok() const { return ok_; }
    int                 os_errno() const { return os_errno_; }
    const std::string & message() const { return message_; }
    const std::string & path() const { return path_; }

  private:
    Status(std::string message, int os_errno, std::string path)
        : ok_(false), os_errno_(os_errno), message_(std::move(message)), path_(std::move(path)) {}

    bool        ok_       = true;
    int         os_errno_ = 0;
    std::string message_;
    std::string path_;
};

} // namespace hobbit
