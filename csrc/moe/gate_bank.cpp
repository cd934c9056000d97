#include "moe/gate_bank.h"

#include "predict/trained_gates.h"

#include <algorithm>
#include <cstring>

namespace hobbit {

namespace {

void send(DeviceScratch & scratch, const void * data, size_t n_bytes) { // the device's memory need not be the host's
    ggml_tensor all = flat_tensor(GGML_TYPE_I8, n_bytes, scratch.buffer(), scratch.data());
    ggml_backend_tensor_set(&all, data, 0, n_bytes);
}

class RouterBank final : public GateBank {
  public:
    explicit RouterBank(ggml_backend_t backend) : bank_(backend) {}

    bool begin(const ModelExperts &, const std::vector<Router> & routers) override {
        const ggml_tensor * first = routers.front().weights();
        first_row_.assign(1, 0);
        for (const Router & router : routers) {
            const ggml_tensor * weights = router.weights();
            if (weights->type != first->type || weights->ne[0] != first->ne[0] || !ggml_is_contiguous(weights)) {
                return false;
            }
            first_row_.push_back(first_row_.back() + static_cast<uint32_t>(weights->ne[1]));
        }
        if (banked_ == first->data && bank_.n_bytes() > 0) {
            return true; // weights stay where they are
        }
        type_      = first->type;
        row_bytes_ = ggml_row_size(first->type, first->ne[0]);
        if (!bank_.reserve(first_row_.back() * row_bytes_)) {
            return false;
        }
        std::vector<char> bank(first_row_.back() * row_bytes_);
        for (size_t i = 0; i < routers.size(); ++i) {
            const ggml_tensor * weights = routers[i].weights();
            ggml_backend_tensor_get(weights, bank.data() + first_row_[i] * row_bytes_, 0, ggml_nbytes(weights));
        }
        is_folded_ = can_divide_norms(routers);
        for (size_t i = 0; is_folded_ && i < routers.size(); ++i) {
            fold_norm(routers[i], first_row_[i], first_row_[i + 1], bank);
        }
        send(bank_, bank.data(), bank.size());
        banked_ = first->data;
        return true;
    }

    GateRows rows(const std::vector<Router> &, size_t source, bool with_own, size_t n_ahead) const override {
        const size_t   first     = source + (with_own ? 0 : 1);
        const uint32_t first_row = first_row_[first];
        auto *         data      = reinterpret_cast<std::byte *>(bank_.data());
        return {{bank_.buffer(), data + first_row * row_bytes_},
                type_,
                first_row_[source + 1 + n_ahead] - first_row,
                nullptr};
    }

    size_t max_ahead() const override { return first_row_.size(); }
    bool   divides_norm() const override { return is_folded_; }

  private:
    static void fold_norm(const Router & router, uint32_t first_row, uint32_t end_row, std::vector<char> & bank) {
        const std::vector<float> norm   = read_floats(router.norm);
        const size_t             n_embd = norm.size();
        float *                  rows   = reinterpret_cast<float *>(bank.data()) + first_row * n_embd;
        for (size_t k = 0; k < (end_row - first_row) * n_embd; ++k) {
            rows[k] *= norm[k % n_embd];
        }
    }

    DeviceScratch         bank_;                // the routers' weights, in graph order
    const void *          banked_    = nullptr; // the first weights in it
    bool                  is_folded_ = false;
    ggml_type             type_      = GGML_TYPE_F32;
    size_t                row_bytes_ = 0;
    std::vector<uint32_t> first_row_; // [router] in the bank, and the end
};

class TrainedBank final : public GateBank {
  public:
    explicit TrainedBank(ggml_backend_t backend)
        : is_host_(ggml_backend_dev_type(ggml_backend_get_device(backend)) == GGML_BACKEND_DEVICE_TYPE_CPU),
          copy_(backend) {}

    bool begin(const ModelExperts & model, const std::vector<Router> & routers) override {
        if (model.predictor_shared.trained != gates_) {
            gates_  = model.predictor_shared.trained;
            banked_ = nullptr;
        }
        const auto is_trained = [this](const Router & router) {
            const auto layer = static_cast<size_t>(router.layer_idx);
            return layer < gates_->layers.size() && !gates_->layers[layer].biases.empty() &&
                   router.weights()->ne[0] == gates_->n_embd;
        };
        const auto n_trained = std::count_if(gates_->layers.begin(), gates_->layers.end(),
                                             [](const TrainedGates::Layer & layer) { return !layer.biases.empty(); });
        if (static_cast<size_t>(n_trained) != routers.size() ||
            !std::all_of(routers.begin(), routers.end(), is_trained)) {
            return false;
        }
        if (banked_ == routers.front().weights()->data) {
            return true;
        }
        const size_t n_bytes = gates_->n_rows() * gates_->n_embd * sizeof(uint16_t);
        area_                = model.host_area(reinterpret_cast<const std::byte *>(gates_->row(0)));
        if (!is_host_) {
            if (!copy_.reserve(n_bytes)) {
                return false;
            }
            send(copy_, gates_->row(0), n_bytes);
            area_ = {copy_.buffer(), reinterpret_cast<std::byte *>(copy_.data())};
        }
        divides_norm_ = can_divide_norms(routers);
        banked_       = routers.front().weights()->data;
        return true;
    }

    GateRows rows(const std::vector<Router> & routers, size_t source, bool with_own, size_t n_ahead) const override {
        const TrainedGates::Layer & layer   = gates_->layers[static_cast<size_t>(routers[source].layer_idx)];
        const auto                  n_own   = static_cast<uint32_t>(routers[source].logits->ne[0]);
        const uint32_t              skipped = with_own ? 0 : n_own;
        uint32_t                    n_rows  = with_own ? n_own : 0;
        for (size_t d = 1; d <= n_ahead; ++d) {
            n_rows += static_cast<uint32_t>(routers[source + d].logits->ne[0]);
        }
        const size_t first = (layer.first_row + skipped) * gates_->n_embd * sizeof(uint16_t);
        return {{area_.buffer, area_.data + first}, GGML_TYPE_F16, n_rows, layer.biases.data() + skipped};
    }

    size_t max_ahead() const override { return gates_->n_ahead; }
    bool   divides_norm() const override { return divides_norm_; }

  private:
    bool                                is_host_;
    std::shared_ptr<const TrainedGates> gates_;
    DeviceScratch                       copy_; // of its rows
    WeightArea                          area_;
    const void *                        banked_       = nullptr; // the first router's weights when that was prepared
    bool                                divides_norm_ = false;
};

} // namespace

std::unique_ptr<GateBank> make_router_bank(ggml_backend_t backend) { return std::make_unique<RouterBank>(backend); }

std::unique_ptr<GateBank> make_trained_bank(ggml_backend_t backend) { return std::make_unique<TrainedBank>(backend); }

} // namespace hobbit
