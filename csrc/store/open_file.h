// Files of a model, opened with a sentence for whatever may be wrong with the path.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace hobbit {

struct FileClose {
    void operator()(FILE * file) const { std::fclose(file); }
};

struct OpenFile {
    std::unique_ptr<FILE, FileClose> file;
    uint64_t                         n_bytes = 0;
};

// Opens a regular file for reading. Throws StoreError, which tells whoever named it as `what` if it does not exist.
OpenFile open_file(const std::string & path, const std::string & what = "the model");

} // namespace hobbit
