#include "moe/tiered_layer.h"

#include "moe/graph_nodes.h"

#include <algorithm>
#include <utility>

namespace hobbit {

namespace {

// Prompts have so many rows for each expert that a copy always pays, and rows that cross twice do not.
constexpr uint32_t max_host_tokens = 32;

// More have nearly as many rows as a slot could serve, and kernels that go through all slots.
constexpr uint32_t max_whole_tokens = 8;

// In a layer that is parted, the next one is guessed and kernels are begun while copies pass, which a share of the
// host's holds up: so it must gain more (docs/gpu.md).
constexpr double held_up_us = 30;

} // namespace

void TieredLayer::set_n_threads(int n_threads) {
    n_threads_ = n_threads;
    if (host_) {
        host_->set_n_threads(n_threads);
    }
}

const ggml_tensor * TieredLayer::add_input(const LayerView & view, InnerGraph & inner) {
    quants_.clear();
    const ExpertNode &  first  = view.nodes.front();
    const ggml_tensor * quants = rounds_as_device(view, first) ? quants_.add(inner, first.node->src[1]) : nullptr;
    return quants != nullptr ? quants : first.node->src[1];
}

void TieredLayer::begin(const LayerView & view, LayerStep & step) {
    view_      = &view;
    step_      = &step;
    n_parts_   = view.part_order.size();
    tier_step_ = view.model->tier->begin(step.keys());
    weights_.emplace(*view.model->tier, *view.model->device_arena, step.keys(), tier_step_.get());
    tier_step_->find_missing(missing_, lease_idxs_);
    pending_.clear();
    copies_.begin(view, step, *tier_step_, lease_idxs_);
    inputs_computed_ = true;
    ahead_.settle();
    if (!missing_.empty()) {
        step.load(view, missing_);
        loaded_.emplace(*view.model, step.loaded(), lease_idxs_);
        plan();
        copies_.take(ahead_);
    }
    ahead_.drop();
    pump();
    Promotions::restore(*view.model);
    find_slot_ids();
}

void TieredLayer::end() {
    weights_.reset();
    copies_.end();
    loaded_.reset();
    tier_step_.reset();
    pending_.clear();
    missing_.clear();
    promotes_ = false;
    if (host_) {
        host_->clear();
    }
}

void TieredLayer::plan() {
    const std::vector<uint32_t> & parts   = view_->part_order;
    const HostParts               host    = host_parts();
    const CopyLayouts &           layouts = *view_->model->layouts;
    std::vector<MissingExpert>    experts;
    uint64_t                      n_bytes_left = 0; // of copies that were begun ahead
    for (uint32_t i : missing_) {
        n_bytes_left += ahead_.n_bytes_left(step_->keys()[i]);
        const CopyLayout & layout = layouts.of(step_->keys()[i]);
        experts.push_back({step_->keys()[i].precision, step_->n_rows(i), layout.parts[parts.front()].n_bytes,
                           static_cast<uint32_t>(parts.size() - 1), layout.parts[parts.back()].n_bytes,
                           ahead_.n_begun(step_->keys()[i], parts)});
    }
    if (host.first || host.last) {
        TierCosts costs = view_->model->tier->costs();
        costs.host_sync_us += can_be_parted() ? held_up_us : 0;
        costs.copy_start_us += static_cast<double>(n_bytes_left) * costs.copy_us_per_byte;
        plan_                = plan_step(experts, costs, host);
        const auto uses_host = [](const std::vector<Place> & places) {
            return std::find(places.begin(), places.end(), Place::host) != places.end();
        };
        if (std::none_of(plan_.places.begin(), plan_.places.end(), uses_host)) {
            view_->model->tier->on_host_unused();
        }
    } else {
        plan_.places.assign(missing_.size(), std::vector<Place>(parts.size(), Place::device));
    }
    for (size_t rank = 0; rank < parts.size(); rank++) {
        for (size_t m = 0; m < missing_.size(); m++) {
            if (plan_.places[m][rank] == Place::device) {
                copies_.add(missing_[m], parts[rank]);
            } else {
                copies_.add_for_host(missing_[m], parts[rank]);
            }
        }
    }
}

HostParts TieredLayer::host_parts() const {
    const std::vector<uint32_t> & parts    = view_->part_order;
    const uint32_t                n_tokens = view_->n_tokens();
    const auto                    may      = [&](uint32_t part_idx) {
        return n_tokens <= max_host_tokens && view_->model->may_compute(view_->layer_idx, part_idx, n_tokens);
    };
    return {std::all_of(parts.begin(), parts.end() - 1, may), may(parts.back())};
}

Place TieredLayer::place_of(uint32_t key_idx, uint32_t part_idx) const {
    const auto & parts = view_->part_order;
    const auto   rank  = static_cast<size_t>(std::find(parts.begin(), parts.end(), part_idx) - parts.begin());
    return plan_.places[static_cast<size_t>(lease_idxs_[key_idx])][rank];
}

void TieredLayer::pump() {
    copies_.pump();
    if (copies_.all_begun() && !copies_.awaits_stream()) {
        ahead_.pump(*view_);
    }
}

std::vector<ExpertKey> TieredLayer::expect(const std::vector<ExpertKey> & keys) {
    std::vector<ExpertKey> absent = ahead_.expect(*view_, keys);
    pump();
    return absent;
}

// A layer of one token in mixed precision: hi rows are one product, which mostly waits for no copy, and lo rows another
// behind it, over resident and copied ones alike. With no slots for hi copies lo rows are all there is, as a rule.
bool TieredLayer::can_be_parted() const {
    const DeviceTier & tier = *view_->model->tier;
    return view_->n_tokens() == 1 && !tier.shape().has_ring() && tier.has_slots(view_->layer_idx, Precision::hi) &&
           weights_->layouts().has(view_->layer_idx, Precision::lo);
}

// A few tokens' rows all go through one product over the slots, those of missing experts with any other slot, and are
// written over later: no rows are gathered and scattered, and a GPU meets the same nodes in every token, which it then
// begins in one go (CUDA graphs). A token's slots are distinct, as kernels for several tokens expect.
void TieredLayer::find_slot_ids() {
    slot_ids_.clear();
    is_parted_ = false;
    if (view_->n_tokens() > max_whole_tokens || !step_->skipped_rows().empty() || step_->keys().empty()) {
        return;
    }
    is_parted_       = can_be_parted();
    whole_precision_ = is_parted_ ? Precision::hi : step_->keys().front().precision;
    bool any         = false;
    for (uint32_t i = 0; i < step_->keys().size() && !is_parted_; i++) {
        if (!tier_step_->slot(i)) {
            continue;
        }
        const Precision precision = step_->keys()[i].precision;
        if (any && precision != whole_precision_) {
            return;
        }
        any              = true;
        whole_precision_ = precision;
    }
    const uint32_t n_used    = view_->n_used();
    const uint32_t class_idx = weights_->layouts().of({view_->layer_idx, 0, whole_precision_}).class_idx;
    if (weights_->n_slots(static_cast<int32_t>(class_idx)) < n_used) {
        is_parted_ = false;
        return;
    }
    slot_ids_ = step_->slot_ids(*weights_);
    for (uint32_t i = 0; i < step_->keys().size(); i++) {
        for (uint32_t row = 0; step_->keys()[i].precision != whole_precision_ && row < step_->n_rows(i); row++) {
            slot_ids_[step_->rows(i)[row]] = -1;
        }
    }
    for (auto first = slot_ids_.begin(); first != slot_ids_.end(); first += n_used) {
        int32_t unused = 0;
        for (auto id = first; id != first + n_used; ++id) {
            if (*id < 0) {
                while (std::find(first, first + n_used, unused) != first + n_used) {
                    unused++;
                }
                *id = unused;
            }
        }
    }
}

Status TieredLayer::run(ggml_cgraph * graph, int first_idx, InnerGraph & inner, ExpertMatmul & matmul,
                        const DeviceReads & reads, const std::function<void()> & meanwhile) {
    reads_     = &reads;
    meanwhile_ = meanwhile;
    if (view_->n_tokens() > max_whole_tokens) {
        inner.set_one_time();
    } else {
        inner.set_recurring(view_->n_tokens() == 1 ? view_->layer_idx : -1);
    }
    auto next = view_->nodes.begin();
    for (int i = first_idx; i < view_->end_idx; ++i) {
        ggml_tensor * node      = ggml_graph_node(graph, i);
        const bool    is_expert = next != view_->nodes.end() && next->node_idx == i;
        // As in GraphRunner::compute_arriving(): only expert nodes may overtake pending rows.
        if (is_expert ? reads_pending(node) : !is_no_op(node)) {
            if (Status status = complete_all(inner, matmul); !status.ok()) {
                return status;
            }
        }
        if (!is_expert) {
            inner.add(node);
            inputs_computed_ = inputs_computed_ && is_no_op(node);
            continue;
        }
        if (Status status = add_node(*next, inner, matmul); !status.ok()) {
            return status;
        }
        ++next;
    }
    if (Status status = complete_all(inner, matmul); !status.ok()) {
        return status;
    }
    promotes_ = true;
    return {};
}

void TieredLayer::promote() {
    if (std::exchange(promotes_, false)) {
        promotions_.promote(*step_->model(), n_parts_, *step_, missing_, lease_idxs_);
    }
}

void TieredLayer::think_meanwhile() {
    if (meanwhile_) {
        std::exchange(meanwhile_, {})();
    }
}

Status TieredLayer::add_node(const ExpertNode & node, InnerGraph & inner, ExpertMatmul & matmul) {
    if (!step_->skipped_rows().empty()) {
        if (Status status = inner.compute(); !status.ok()) {
            return status;
        }
        ExpertMatmul::clear_rows(node, step_->skipped_rows());
    }
    if (!slot_ids_.empty()) {
        pending_.push_back(&node); // if nothing is missing as well: cut alike, runs begin with the same nodes
        return {};
    }
    ready_.clear();
    for (uint32_t i = 0; i < step_->keys().size(); i++) {
        if (tier_step_->slot(i)) {
            ready_.push_back(i);
        }
    }
    if (!ready_.empty()) {
        if (Status status = matmul.add_rows(inner, node, *view_, *step_, *weights_, ready_); !status.ok()) {
            return status;
        }
    }
    if (!missing_.empty()) {
        pending_.push_back(&node);
    }
    return {};
}

Status TieredLayer::complete_all(InnerGraph & inner, ExpertMatmul & matmul) {
    if (pending_.empty()) {
        return {};
    }
    pump();
    find_host_shares();
    part_idxs_.clear();
    for (const ExpertNode * node : pending_) {
        part_idxs_.push_back(node->part_idx);
    }
    const bool is_whole = !slot_ids_.empty();
    // The host needs its inputs; and without a whole product to come, the device can begin with what it has.
    if (!host_shares_.empty() || !is_whole) {
        const bool   wait   = !host_shares_.empty() && (quantize_inputs(inner) || !inputs_computed_);
        const Status status = wait ? inner.compute() : inner.submit();
        if (!status.ok()) {
            return status;
        }
    }
    // What is resident goes first, if it waits for no copy and there is time until the others come.
    const auto is_hi    = [this](uint32_t i) { return step_->keys()[i].precision == Precision::hi; };
    const bool is_first = is_parted_ && std::none_of(missing_.begin(), missing_.end(), is_hi) &&
                          (!host_shares_.empty() || !copies_.have_arrived(part_idxs_));
    if (Status status = is_first ? submit_resident(inner) : Status{}; !status.ok()) {
        return status;
    }
    if (Status status = compute_host(); !status.ok()) {
        return status;
    }
    if (!copies_.have_arrived(part_idxs_)) { // the link has its own copies until then
        think_meanwhile();
    }
    if (is_whole) {
        if (Status status = submit_whole(inner, matmul, is_first); !status.ok()) {
            return status;
        }
    }
    think_meanwhile();
    if (!host_shares_.empty()) {
        host_->send(*step_);
    }
    if (Status status = complete_rest(inner, matmul); !status.ok()) {
        return status;
    }
    if (!host_shares_.empty()) {
        host_->clear();
    }
    pending_.clear();
    pump(); // into the buffers that came free
    return {};
}

bool TieredLayer::reads_pending(const ggml_tensor * expert_node) const {
    const ggml_tensor * input = expert_node->src[1];
    const ggml_tensor * base  = input->view_src != nullptr ? input->view_src : input;
    return std::any_of(pending_.begin(), pending_.end(), [base](const ExpertNode * p) { return p->node == base; });
}

} // namespace hobbit
