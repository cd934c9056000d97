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
    static Status error(std::string message, int os_errno = 0) { return Status(std::move(message), os_errno); }

    bool                ok() const { return ok_; }
    int                 os_errno() const { return os_errno_; }
    const std::string & message() const { return message_; }

  private:
    Status(std::string message, int os_errno) : ok_(false), os_errno_(os_errno), message_(std::move(message)) {}

    bool        ok_       = true;
    int         os_errno_ = 0;
    std::string message_;
};

} // namespace hobbit
