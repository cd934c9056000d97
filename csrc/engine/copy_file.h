// Copies of a model's experts in a file of their own.
#pragma once

#include "store/expert_store.h"
#include "store/gguf_model.h"

#include <string>

namespace hobbit {

struct CopyFile {
    // Opens the file; reads no tensor. Throws StoreError.
    explicit CopyFile(const std::string & path) : model(GgufModel::open(path)), store(model) {}

    // Throws StoreError if it lacks copies of `experts`, those of `of_model`, or has others; `precision`: "hi" or "lo".
    void check(const GgufModel & of_model, const ExpertStore & experts, const std::string & precision) const;

    double min_bits() const; // a weight of the coarsest matrix

    GgufModel   model;
    ExpertStore store;
};

} // namespace hobbit
