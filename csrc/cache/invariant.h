// Checks that hold in every build type: a broken invariant means that memory in use may be overwritten.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace hobbit {

inline void check_invariant(bool holds, const char * what) {
    if (!holds) {
        std::fprintf(stderr, "hobbit: broken invariant: %s\n", what);
        std::abort();
    }
}

} // namespace hobbit
