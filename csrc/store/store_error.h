// Bad input at load time: a file that is missing, damaged or of the wrong kind. The message is one sentence.
#pragma once

#include <stdexcept>

namespace hobbit {

struct StoreError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

} // namespace hobbit
