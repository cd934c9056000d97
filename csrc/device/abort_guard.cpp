#include "device/abort_guard.h"

#include "ggml.h"

#include <cstdio>
#include <mutex>
#include <stdexcept>

namespace hobbit {
namespace {

std::mutex            mu; // of the two below
int                   n_guards        = 0;
ggml_abort_callback_t callback_before = nullptr; // none: ggml prints the message and a backtrace

thread_local int         depth = 0; // guards of this thread
thread_local std::string said;

// The compiler's place of a source file says nothing to users.
std::string without_folder(const std::string & message) {
    const size_t colon = message.find(": ");
    const size_t slash = message.rfind('/', colon);
    return slash == std::string::npos || colon == std::string::npos ? message : message.substr(slash + 1);
}

// Returns only where the process is to end, which ggml sees to.
void on_abort(const char * message) {
    if (depth > 0) {
        if (said.empty()) {
            said = without_folder(message);
        }
        throw std::runtime_error(said);
    }
    ggml_abort_callback_t other = nullptr;
    {
        const std::lock_guard<std::mutex> lock(mu);
        other = callback_before;
    }
    if (other != nullptr) {
        other(message);
    } else {
        std::fprintf(stderr, "%s\n", message);
    }
}

} // namespace

AbortGuard::AbortGuard() {
    if (depth++ == 0) {
        said.clear();
    }
    const std::lock_guard<std::mutex> lock(mu);
    if (n_guards++ == 0) {
        callback_before = ggml_set_abort_callback(on_abort);
    }
}

AbortGuard::~AbortGuard() {
    --depth;
    const std::lock_guard<std::mutex> lock(mu);
    if (--n_guards == 0) {
        ggml_set_abort_callback(callback_before);
    }
}

std::string AbortGuard::message() { return said; }

} // namespace hobbit
