// A reader that reads nothing and is done at once: for replaying what a model did without the model.
#pragma once

#include "io/reader.h"

#include <memory>

namespace hobbit {

// Completions come on the submitting thread, before submit() returns. Used by one thread.
std::unique_ptr<Reader> make_instant_reader(uint32_t alignment);

} // namespace hobbit
