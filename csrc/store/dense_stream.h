// A model as one FILE* for llama.cpp's loader, in which expert tensors cost no reading.
//
// llama.cpp loads split models by name only and reads every tensor it allocates. This stream shows it one single-file
// GGUF instead, put together from the parts' headers; ranges that belong to expert tensors are "read" without touching
// either the drive or the destination (which is reserved, inaccessible address space). Everything else comes from the
// files as it is.
#pragma once

#include "store/expert_store.h"

#include <atomic>
#include <cstdio>
#include <memory>

namespace hobbit {

class DenseStream {
  public:
    // Throws StoreError if a file cannot be opened.
    DenseStream(const GgufModel & model, const ExpertStore & experts);
    ~DenseStream();
    DenseStream(const DenseStream &)             = delete;
    DenseStream & operator=(const DenseStream &) = delete;

    // Unbuffered: a buffered stream would copy into the destination. Owned by this object; read by one thread at a time.
    FILE * file();

    // Message of the first read that failed ("" if none), since the loader reports only that it failed.
    std::string error() const;
    uint64_t    read_bytes() const; // from the files so far, header excluded

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace hobbit
