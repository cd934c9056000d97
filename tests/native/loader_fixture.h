// A made-up model behind the fake reader: every byte of every expert is known, and files have odd offsets.
#pragma once

#include "io/fake_reader.h"
#include "loader/loader.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace hobbit::testing {

struct TinyModel {
    struct Layer {
        Layer(uint32_t n, std::vector<uint64_t> bytes) : n_expert(n), part_bytes(std::move(bytes)) {}

        uint32_t              n_expert;
        std::vector<uint64_t> part_bytes; // of one expert
    };

    static constexpr uint64_t align = 512;

    std::vector<Layer>                  layers;
    std::vector<std::vector<std::byte>> files;                                   // [precision]
    std::vector<uint64_t>               tensor_offsets[n_precisions][max_parts]; // [layer]
    CopyLayouts                         layouts;

    // The lo copies have the same shapes with half of the bytes. `first_offset` shifts all tensors in their file.
    explicit TinyModel(std::vector<Layer> model_layers, bool has_lo = false, uint64_t first_offset = 96)
        : layers(std::move(model_layers)) {
        std::vector<CopySpec> specs;
        for (int p = 0; p < (has_lo ? 2 : 1); p++) {
            uint64_t end = first_offset;
            for (uint16_t layer_idx = 0; layer_idx < layers.size(); layer_idx++) {
                CopySpec spec;
                spec.layer_idx = layer_idx;
                spec.precision = static_cast<Precision>(p);
                spec.n_expert  = layers[layer_idx].n_expert;
                spec.n_used    = 2;
                for (uint32_t part = 0; part < layers[layer_idx].part_bytes.size(); part++) {
                    const uint64_t n = part_bytes(layer_idx, part, static_cast<Precision>(p));
                    tensor_offsets[p][part].resize(layers.size());
                    tensor_offsets[p][part][layer_idx] = end;
                    spec.parts.push_back({end, n});
                    end += n * spec.n_expert;
                }
                specs.push_back(spec);
            }
            files.emplace_back(end);
            for (uint64_t i = 0; i < end; i++) {
                files.back()[i] = static_cast<std::byte>((i * 2654435761u + static_cast<uint64_t>(p) * 77) >> 13);
            }
        }
        layouts = make_copy_layouts(specs, align);
    }

    uint64_t part_bytes(uint16_t layer_idx, uint32_t part_idx, Precision precision) const {
        return layers[layer_idx].part_bytes[part_idx] / (precision == Precision::lo ? 2 : 1);
    }

    FileExtent extent(ExpertKey key, uint32_t part_idx) const {
        const auto     p = static_cast<uint32_t>(key.precision);
        const uint64_t n = part_bytes(key.layer_idx, part_idx, key.precision);
        return {p, tensor_offsets[p][part_idx][key.layer_idx] + key.expert_idx * n, n};
    }

    bool is_right(ExpertKey key, uint32_t part_idx, const std::byte * data) const {
        const FileExtent e = extent(key, part_idx);
        return std::memcmp(data, files[e.file_idx].data() + e.offset, e.n_bytes) == 0;
    }

    std::vector<uint32_t> n_expert() const {
        std::vector<uint32_t> n;
        for (const Layer & layer : layers) {
            n.push_back(layer.n_expert);
        }
        return n;
    }

    std::vector<ExpertKey> keys(uint16_t layer_idx, const std::vector<uint16_t> & expert_idxs,
                                Precision precision = Precision::hi) const {
        std::vector<ExpertKey> out;
        for (const uint16_t e : expert_idxs) {
            out.push_back({layer_idx, e, precision});
        }
        return out;
    }
};

// A reader and a loader over it; checks the loader's invariants when it ends.
struct Bench {
    const TinyModel &       model;
    std::unique_ptr<Reader> reader;
    Loader                  loader;

    Bench(const TinyModel & tiny, const LoaderOptions & options, FakeReaderOptions reader_options = {})
        : model(tiny), reader(make_fake_reader(tiny.files, with_align(reader_options))),
          loader(
              tiny.layouts, tiny.n_expert(),
              [&tiny](ExpertKey key, uint32_t part_idx) { return tiny.extent(key, part_idx); }, *reader, options) {}

    ~Bench() { loader.check_invariants(); }

    static FakeReaderOptions with_align(FakeReaderOptions options) {
        options.alignment = TinyModel::align;
        return options;
    }

    // Goes through a layer as the engine does: part by part, whatever has arrived. Clears all_right at a wrong byte.
    Status run(LoadStep & step, const std::vector<uint32_t> & part_order, bool & all_right) const {
        for (const uint32_t part_idx : part_order) {
            std::vector<uint32_t> wanted, arrived;
            for (uint32_t i = 0; i < step.leases().size(); i++) {
                wanted.push_back(i);
            }
            while (!wanted.empty()) {
                arrived.clear();
                Status status = step.wait_any(part_idx, wanted, arrived);
                if (!status.ok()) {
                    return status;
                }
                for (const uint32_t i : arrived) {
                    all_right = all_right && step.ready(i, part_idx) &&
                                model.is_right(step.leases()[i].key, part_idx, step.data(i, part_idx));
                    step.release_part(i, part_idx);
                }
            }
        }
        return {};
    }
};

} // namespace hobbit::testing
