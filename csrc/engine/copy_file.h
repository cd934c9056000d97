// Copies of a model's experts in a file of their own.
#pragma once

#include "store/expert_store.h"
#include "store/gguf_model.h"

#include <string>

namespace hobbit {

struct CopyFile {
    // Opens the file of copies in "hi" or "lo"; reads no tensor. Throws StoreError.
    CopyFile(const std::string & path, const std::string & hi_or_lo)
        : precision(hi_or_lo), model(GgufModel::open(path, "the " + hi_or_lo + " copies")), store(model) {}

    // Throws StoreError if it lacks copies of `experts`, those of `of_model`, or has others.
    void check(const GgufModel & of_model, const ExpertStore & experts) const;

    double min_bits() const; // a weight of the coarsest matrix

    std::string precision;
    GgufModel   model;
    ExpertStore store;
};

} // namespace hobbit
