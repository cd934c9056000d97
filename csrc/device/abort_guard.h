// Damage that llama.cpp asserts against while it loads a model, as an error instead of the end of the process.
#pragma once

#include <string>

namespace hobbit {

// While one lives, an abort of ggml in the thread that made it becomes an exception: llama.cpp catches those of a load
// and of making a context, and gives up cleanly. Other threads abort as ever.
//
// The one place where something is thrown through ggml on purpose. It asks for what would be fatal otherwise, and what
// it unwinds is llama.cpp's loading code, written for exceptions, and C frames that hold nothing.
class AbortGuard {
  public:
    AbortGuard();
    ~AbortGuard();
    AbortGuard(const AbortGuard &)             = delete;
    AbortGuard & operator=(const AbortGuard &) = delete;

    // What the first abort said since the outermost guard of this thread was made, as "file.cpp:12: words"; "": none.
    static std::string message();
};

} // namespace hobbit
