#include "store/expert_store.h"

#include "store/store_error.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <limits>
#include <map>
#include <optional>
#include <string_view>

namespace hobbit {
namespace {

constexpr int64_t max_index = std::numeric_limits<uint16_t>::max(); // of layers and experts, see ExpertKey

constexpr const char * advice = "use another conversion of the model.";

// Order in which llama.cpp's graph uses an expert's matrices, hence in which they are wanted from the drive.
int use_order(MatrixKind kind) {
    switch (kind) {
    case MatrixKind::gate_up:
        return 0;
    case MatrixKind::up:
        return 1;
    case MatrixKind::gate:
        return 2;
    case MatrixKind::down:
        return 3;
    }
    return 4;
}

struct ExpertName {
    int64_t    layer_idx = 0;
    MatrixKind kind      = MatrixKind::gate;
};

// Accepts what tensor_pattern() matches. By hand: GCC 12 warns about the insides of std::regex under sanitizers.
std::optional<ExpertName> parse_expert_name(std::string_view text) {
    constexpr std::string_view prefix = "blk.";
    if (text.substr(0, prefix.size()) != prefix) {
        return std::nullopt;
    }
    text.remove_prefix(prefix.size());
    const size_t n_digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (n_digits == 0 || (n_digits > 1 && text[0] == '0')) {
        return std::nullopt;
    }
    ExpertName name;
    if (std::from_chars(text.data(), text.data() + n_digits, name.layer_idx).ec != std::errc()) {
        name.layer_idx = std::numeric_limits<int64_t>::max(); // more digits than fit
    }
    text.remove_prefix(n_digits);
    constexpr std::pair<std::string_view, MatrixKind> suffixes[] = {
        {".ffn_gate_exps.weight", MatrixKind::gate},
        {".ffn_up_exps.weight", MatrixKind::up},
        {".ffn_down_exps.weight", MatrixKind::down},
        {".ffn_gate_up_exps.weight", MatrixKind::gate_up},
    };
    for (const auto & [suffix, kind] : suffixes) {
        if (text == suffix) {
            name.kind = kind;
            return name;
        }
    }
    return std::nullopt;
}

std::string shape_text(const std::array<int64_t, 4> & ne) {
    std::string text;
    for (size_t i = 0; i < ne.size(); ++i) {
        text += (i == 0 ? "" : " x ") + std::to_string(ne[i]);
    }
    return text;
}

ExpertMatrix make_matrix(const TensorInfo & tensor, MatrixKind kind, const std::string & path) {
    const auto & ne = tensor.ne;
    // A reader of GGUF cannot tell [a, b] from [a, b, 1]; a model of one expert is not a mixture either.
    if (ne[0] < 1 || ne[1] < 1 || ne[2] < 2 || ne[2] > max_index || ne[3] != 1) {
        throw StoreError("'" + path + "' has expert tensor '" + tensor.name + "' of shape " + shape_text(ne) +
                         ", expected three dimensions, the last one 2 to 65535 experts: " + advice);
    }
    ExpertMatrix matrix;
    matrix.kind         = kind;
    matrix.tensor_name  = tensor.name;
    matrix.type         = tensor.type;
    matrix.n_in         = ne[0];
    matrix.n_out        = ne[1];
    matrix.row_bytes    = ggml_row_size(tensor.type, ne[0]);
    matrix.expert_bytes = matrix.row_bytes * static_cast<uint64_t>(ne[1]);
    matrix.extent       = tensor.extent;
    assert(matrix.expert_bytes * static_cast<uint64_t>(ne[2]) == tensor.extent.n_bytes);
    return matrix;
}

void check_complete(const ExpertLayer & layer, const std::string & path) {
    std::vector<MatrixKind> kinds;
    std::string             names;
    for (const ExpertMatrix & matrix : layer.matrices) {
        kinds.push_back(matrix.kind);
        names += (names.empty() ? "" : ", ") + matrix.tensor_name;
    }
    using Kinds = std::vector<MatrixKind>;
    if (kinds != Kinds{MatrixKind::up, MatrixKind::down} && kinds != Kinds{MatrixKind::gate_up, MatrixKind::down} &&
        kinds != Kinds{MatrixKind::up, MatrixKind::gate, MatrixKind::down}) {
        throw StoreError("'" + path + "' has in layer " + std::to_string(layer.layer_idx) + " the expert tensors " +
                         names + ", expected up and down, gate, up and down, or gate_up and down: " + advice);
    }
}

} // namespace

uint64_t ExpertLayer::expert_bytes() const {
    uint64_t sum = 0;
    for (const ExpertMatrix & matrix : matrices) {
        sum += matrix.expert_bytes;
    }
    return sum;
}

const char * ExpertStore::tensor_pattern() {
    return "^blk\\.(0|[1-9][0-9]*)\\.ffn_(gate|up|down|gate_up)_exps\\.weight$";
}

ExpertStore::ExpertStore(const GgufModel & model) {
    std::map<uint16_t, ExpertLayer> layers;
    for (const TensorInfo & tensor : model.tensors()) {
        const std::optional<ExpertName> name = parse_expert_name(tensor.name);
        if (!name) {
            dense_bytes_ += tensor.extent.n_bytes;
            continue;
        }
        const std::string & path = model.paths()[tensor.extent.file_idx];
        if (name->layer_idx > max_index) {
            throw StoreError("'" + path + "' has expert tensor '" + tensor.name +
                             "', expected a layer of at most 65535: download it again.");
        }
        expert_bytes_ += tensor.extent.n_bytes;
        const auto    layer_idx = static_cast<uint16_t>(name->layer_idx);
        const auto    n_expert  = static_cast<uint32_t>(tensor.ne[2]);
        ExpertLayer & layer     = layers[layer_idx];
        ExpertMatrix  matrix    = make_matrix(tensor, name->kind, path);
        if (!layer.matrices.empty() && layer.n_expert != n_expert) {
            throw StoreError("'" + path + "' has " + std::to_string(n_expert) + " experts in '" + tensor.name +
                             "' but " + std::to_string(layer.n_expert) + " in '" + layer.matrices.front().tensor_name +
                             "': " + advice);
        }
        layer.layer_idx = layer_idx;
        layer.n_expert  = n_expert;
        layer.matrices.push_back(std::move(matrix));
    }
    for (auto & [layer_idx, layer] : layers) {
        std::sort(layer.matrices.begin(), layer.matrices.end(),
                  [](const ExpertMatrix & a, const ExpertMatrix & b) { return use_order(a.kind) < use_order(b.kind); });
        check_complete(layer, model.paths().front());
        layers_.push_back(std::move(layer));
    }
}

const ExpertLayer * ExpertStore::find_layer(uint16_t layer_idx) const {
    const auto it = std::lower_bound(layers_.begin(), layers_.end(), layer_idx,
                                     [](const ExpertLayer & layer, uint16_t idx) { return layer.layer_idx < idx; });
    return it != layers_.end() && it->layer_idx == layer_idx ? &*it : nullptr;
}

FileExtent ExpertStore::extent(const ExpertLayer & layer, uint32_t part_idx, uint32_t expert_idx) const {
    assert(part_idx < layer.matrices.size() && expert_idx < layer.n_expert);
    const ExpertMatrix & matrix = layer.matrices[part_idx];
    return {matrix.extent.file_idx, matrix.extent.offset + expert_idx * matrix.expert_bytes, matrix.expert_bytes};
}

} // namespace hobbit
