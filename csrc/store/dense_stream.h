// A model as one FILE* for llama.cpp's loader, in which expert tensors cost no reading.
//
// llama.cpp loads split models by name only and reads every tensor it allocates. This stream shows it one single-file
// GGUF instead, put together from the parts' headers, with the dense tensors' bytes as they are in the files.
//
// Expert tensors' destination is reserved, inaccessible memory, and stdio copies into it whatever a stream of our own
// returns. So their bytes must not even be asked for: a seek into an expert tensor succeeds but lands at the end of the
// stream, and llama.cpp's loader, which reads no more than what is left behind the position it finds, reads nothing.
#pragma once

#include "store/expert_store.h"

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

    // Owned by this object; used by one thread at a time. Reading on into an expert tensor gives zeros; a seek beyond
    // the end lands at the end.
    FILE * file();

    // Message of the first read that failed ("" if none), since the loader reports only that it failed.
    // REQUIRES: nobody is reading.
    std::string error() const;
    uint64_t    read_bytes() const; // from the files so far, headers excluded; from any thread

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace hobbit
