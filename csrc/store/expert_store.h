// Where each expert's bytes are: the expert tensors of a GGUF model, by layer and matrix.
#pragma once

#include "store/gguf_model.h"

#include <string>
#include <vector>

namespace hobbit {

// One expert tensor of one layer, ne = [n_in, n_out, n_expert]: the same matrix of all its experts, back to back.
struct ExpertMatrix {
    MatrixKind  kind = MatrixKind::gate;
    std::string tensor_name;
    ggml_type   type = GGML_TYPE_F32;
    int64_t     n_in = 0, n_out = 0;
    uint64_t    row_bytes    = 0; // of one row of n_in weights
    uint64_t    expert_bytes = 0; // of one expert's matrix
    FileExtent  extent;           // of the whole tensor
};

struct ExpertLayer {
    uint16_t                  layer_idx = 0; // as in the tensors' names: blk.<layer_idx>.
    uint32_t                  n_expert  = 0;
    std::vector<ExpertMatrix> matrices; // in the order gate_up | up, gate, down: that in which llama.cpp uses them

    uint64_t expert_bytes() const; // of one expert, all matrices
};

// The experts of one GGUF. Layers without experts (leading dense ones) are absent.
class ExpertStore {
  public:
    // Tensors named blk.N.ffn_{gate,up,down,gate_up}_exps.weight are experts; everything else is dense.
    // A layer whose set of matrices is not one of {up, down}, {gate, up, down}, {gate_up, down}, or whose matrices
    // disagree on the number of experts, throws StoreError.
    explicit ExpertStore(const GgufModel & model);

    const std::vector<ExpertLayer> & layers() const { return layers_; }
    const ExpertLayer *              find_layer(uint16_t layer_idx) const; // nullptr: no experts there
    bool                             is_moe() const { return !layers_.empty(); }

    // Bytes of one expert's matrix `part_idx` in the files of the model.
    FileExtent extent(const ExpertLayer & layer, uint32_t part_idx, uint32_t expert_idx) const;

    uint64_t expert_bytes() const { return expert_bytes_; } // all experts of all layers
    uint64_t dense_bytes() const { return dense_bytes_; }   // all other tensors

    // A regular expression for llama.cpp's tensor_buft_overrides that matches exactly the tensors taken as experts.
    static const char * tensor_pattern();

  private:
    std::vector<ExpertLayer> layers_;
    uint64_t                 expert_bytes_ = 0;
    uint64_t                 dense_bytes_  = 0;
};

} // namespace hobbit
