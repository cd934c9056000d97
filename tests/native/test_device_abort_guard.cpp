#include "device/abort_guard.h"
#include "ggml.h"

#include <doctest/doctest.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using hobbit::AbortGuard;

namespace {

// ggml itself, compiled as C, asserts in every build: a graph without nodes has no first one.
void abort_in_ggml() {
    ggml_init_params params = {};
    params.mem_size         = ggml_tensor_overhead() + ggml_graph_overhead();
    params.no_alloc         = true;
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(ggml_init(params), ggml_free);
    ggml_graph_node(ggml_new_graph(context.get()), 0);
}

// How a fork that runs `action` ends: the number of its signal, 0 if it returns.
template <typename Action> int signal_of(Action action) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(STDERR_FILENO);
        action();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

} // namespace

TEST_CASE("an abort within a guard is an exception with its words and without a folder") {
    const AbortGuard guard;
    CHECK(AbortGuard::message().empty());
    CHECK_THROWS_AS(abort_in_ggml(), std::runtime_error);
    CHECK(AbortGuard::message().find("ggml.c:") == 0);
    CHECK(AbortGuard::message().find("GGML_ASSERT") != std::string::npos);
}

TEST_CASE("the first message is kept, a new guard begins with none") {
    {
        const AbortGuard guard;
        CHECK_THROWS(ggml_abort("a.cpp", 1, "first"));
        CHECK_THROWS(ggml_abort("b.cpp", 2, "second"));
        CHECK(AbortGuard::message() == "a.cpp:1: first");
    }
    const AbortGuard guard;
    CHECK(AbortGuard::message().empty());
}

TEST_CASE("guards nest") {
    const AbortGuard outer;
    {
        const AbortGuard inner;
        CHECK_THROWS(ggml_abort("a.cpp", 1, "within"));
    }
    CHECK(AbortGuard::message() == "a.cpp:1: within");
    CHECK_THROWS(ggml_abort("b.cpp", 2, "after"));
}

TEST_CASE("without a guard, and in other threads, an abort is one") {
    CHECK(signal_of(abort_in_ggml) == SIGABRT);
    CHECK(signal_of([] {
              {
                  const AbortGuard guard;
              }
              abort_in_ggml();
          }) == SIGABRT);
    CHECK(signal_of([] {
              const AbortGuard guard;
              std::thread(abort_in_ggml).join();
          }) == SIGABRT);
}
