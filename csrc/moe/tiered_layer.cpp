#include "moe/tiered_layer.h"

#include "moe/graph_nodes.h"

#include <algorithm>
#include <cassert>

namespace hobbit {

namespace {

// Prompts have so many rows for each expert that a copy always pays, and rows that cross twice do not.
constexpr uint32_t max_host_tokens = 32;

} // namespace

void TieredLayer::set_n_threads(int n_threads) {
    n_threads_ = n_threads;
    if (host_) {
        host_->set_n_threads(n_threads);
    }
}

void TieredLayer::begin(const LayerView & view, LayerStep & step) {
    view_      = &view;
    step_      = &step;
    tier_step_ = view.model->tier->begin(step.keys());
    weights_.emplace(*view.model->tier, *view.model->device_arena, step.keys(), tier_step_.get());
    missing_.clear();
    lease_idxs_.assign(step.keys().size(), -1);
    for (uint32_t i = 0; i < step.keys().size(); i++) {
        if (!tier_step_->slot(i)) {
            lease_idxs_[i] = static_cast<int32_t>(missing_.size());
            missing_.push_back(i);
        }
    }
    pending_.clear();
    copies_.clear();
    next_copy_       = 0;
    inputs_computed_ = true;
    if (!missing_.empty()) {
        step.load(view, missing_);
        loaded_.emplace(*view.model, step.loaded(), lease_idxs_);
        plan();
    }
    take_ahead();
    pump();
}

void TieredLayer::end() {
    weights_.reset();
    loaded_.reset();
    tier_step_.reset();
    pending_.clear();
    missing_.clear();
    if (host_) {
        host_->clear();
    }
}

void TieredLayer::plan() {
    const std::vector<uint32_t> & parts     = view_->part_order;
    const bool                    with_host = view_->model->host_compute && view_->n_tokens() <= max_host_tokens;
    const CopyLayouts &           layouts   = *view_->model->layouts;
    std::vector<MissingExpert>    experts;
    for (uint32_t i : missing_) {
        const CopyLayout & layout = layouts.of(step_->keys()[i]);
        experts.push_back({step_->keys()[i].precision, step_->n_rows(i), layout.parts[parts.front()].n_bytes,
                           static_cast<uint32_t>(parts.size() - 1), layout.parts[parts.back()].n_bytes});
    }
    if (with_host) {
        plan_                = plan_step(experts, view_->model->tier->costs());
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
                copies_.push_back({missing_[m], parts[rank]});
            }
        }
    }
}

// What was copied ahead is taken over in the order of use, up to the first part that is not there for all: a later part
// must not hold buffers that an earlier one waits for.
void TieredLayer::take_ahead() {
    bool all = true;
    for (size_t i = 0; i < copies_.size(); i++) {
        Copy & copy = copies_[i];
        if (!all && copy.part_idx != copies_[i - 1].part_idx) {
            break;
        }
        copy.buffer_idx = ahead_.take(step_->keys()[copy.key_idx], copy.part_idx, *tier_step_);
        all             = all && copy.buffer_idx >= 0;
    }
    ahead_.drop();
}

Place TieredLayer::place_of(uint32_t key_idx, uint32_t part_idx) const {
    const auto & parts = view_->part_order;
    const auto   rank  = static_cast<size_t>(std::find(parts.begin(), parts.end(), part_idx) - parts.begin());
    return plan_.places[static_cast<size_t>(lease_idxs_[key_idx])][rank];
}

bool TieredLayer::is_loaded(uint32_t key_idx, uint32_t part_idx) const {
    return step_->loaded().ready(static_cast<uint32_t>(lease_idxs_[key_idx]), part_idx);
}

void TieredLayer::begin_copy(Copy & copy, bool wait) {
    const auto lease_idx = static_cast<uint32_t>(lease_idxs_[copy.key_idx]);
    copy.buffer_idx      = tier_step_->begin_copy(
        step_->loaded().data(lease_idx, copy.part_idx),
        view_->model->layouts->of(step_->keys()[copy.key_idx]).parts[copy.part_idx].n_bytes, wait);
}

// Begins the copies that can begin. A later part does not take a buffer before all of an earlier one have theirs: they
// are given back in the order of use.
void TieredLayer::pump() {
    while (next_copy_ < copies_.size()) {
        const uint32_t part_idx = copies_[next_copy_].part_idx;
        bool           all      = true;
        for (size_t i = next_copy_; i < copies_.size() && copies_[i].part_idx == part_idx; i++) {
            if (copies_[i].buffer_idx < 0 && is_loaded(copies_[i].key_idx, part_idx)) {
                begin_copy(copies_[i], false);
                if (copies_[i].buffer_idx < 0) {
                    return; // no buffer is free
                }
            }
            all = all && copies_[i].buffer_idx >= 0;
        }
        if (!all) {
            return; // the drive is not done
        }
        while (next_copy_ < copies_.size() && copies_[next_copy_].part_idx == part_idx) {
            next_copy_++;
        }
    }
    if (AheadCopies::pays(*view_)) {
        ahead_.pump(*view_);
    }
}

Status TieredLayer::run(ggml_cgraph * graph, int first_idx, InnerGraph & inner, ExpertMatmul & matmul) {
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
    promote();
    return {};
}

Status TieredLayer::add_node(const ExpertNode & node, InnerGraph & inner, ExpertMatmul & matmul) {
    if (!step_->skipped_rows().empty()) {
        if (Status status = inner.compute(); !status.ok()) {
            return status;
        }
        ExpertMatmul::clear_rows(node, step_->skipped_rows());
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
    if (Status status = compute_host(inner); !status.ok()) {
        return status;
    }
    for (const ExpertNode * node : pending_) {
        if (Status status = complete_copies(*node, inner, matmul); !status.ok()) {
            return status;
        }
    }
    pending_.clear();
    pump(); // into the buffers that came free
    return {};
}

// The host works on its share of all pending nodes while the device works on what it has and copies arrive.
Status TieredLayer::compute_host(InnerGraph & inner) {
    host_shares_.clear();
    for (const ExpertNode * node : pending_) {
        HostShare share{node, {}, {}};
        for (uint32_t i : missing_) {
            if (place_of(i, node->part_idx) == Place::host) {
                (is_loaded(i, node->part_idx) ? share.ready : share.late).push_back(i);
            }
        }
        if (!share.ready.empty() || !share.late.empty()) {
            host_shares_.push_back(std::move(share));
        }
    }
    if (host_shares_.empty()) {
        return inner.submit();
    }
    if (Status status = inputs_computed_ ? inner.submit() : inner.compute(); !status.ok()) {
        return status;
    }
    if (!host_) {
        host_ = std::make_unique<HostProducts>(device_);
        host_->set_n_threads(n_threads_);
    }
    // What is loaded goes into one run; what the drive still brings follows as it comes.
    for (const HostShare & share : host_shares_) {
        host_->begin(*share.node);
        if (Status status = host_->add(*share.node, *view_, *step_, *loaded_, share.ready); !status.ok()) {
            return status;
        }
    }
    if (Status status = run_host(); !status.ok()) {
        return status;
    }
    for (const HostShare & share : host_shares_) {
        for (uint32_t i : share.ready) {
            step_->loaded().release_part(static_cast<uint32_t>(lease_idxs_[i]), share.node->part_idx);
        }
    }
    for (const HostShare & share : host_shares_) {
        if (Status status = compute_late(share); !status.ok()) {
            return status;
        }
    }
    host_->clear();
    return {};
}

Status TieredLayer::run_host() {
    const Status status = host_->compute(*step_);
    if (host_->work().n_parts > 0) {
        view_->model->tier->on_host_work(host_->work());
    }
    return status;
}

Status TieredLayer::compute_late(const HostShare & share) {
    LoadStep & load = step_->loaded();
    lease_wanted_.clear();
    for (uint32_t i : share.late) {
        lease_wanted_.push_back(static_cast<uint32_t>(lease_idxs_[i]));
    }
    while (!lease_wanted_.empty()) {
        pump();
        lease_arrived_.clear();
        if (Status status = load.wait_any(share.node->part_idx, lease_wanted_, lease_arrived_); !status.ok()) {
            return status;
        }
        ready_.clear();
        for (uint32_t lease_idx : lease_arrived_) {
            ready_.push_back(missing_[lease_idx]);
        }
        if (Status status = host_->add(*share.node, *view_, *step_, *loaded_, ready_); !status.ok()) {
            return status;
        }
        if (Status status = run_host(); !status.ok()) {
            return status;
        }
        for (uint32_t lease_idx : lease_arrived_) {
            load.release_part(lease_idx, share.node->part_idx);
        }
    }
    return {};
}

Status TieredLayer::complete_copies(const ExpertNode & node, InnerGraph & inner, ExpertMatmul & matmul) {
    const auto is_left = [&](const Copy & copy) { return copy.part_idx == node.part_idx && !copy.used; };
    buffers_.assign(step_->keys().size(), -1);
    weights_->set_buffers(buffers_);
    while (std::any_of(copies_.begin(), copies_.end(), is_left)) {
        pump();
        if (Status status = wait_for_copy(node); !status.ok()) {
            return status;
        }
        arrived_.clear();
        for (Copy & copy : copies_) {
            if (is_left(copy) && copy.buffer_idx >= 0 && tier_step_->is_copied(copy.buffer_idx)) {
                copy.used              = true;
                buffers_[copy.key_idx] = copy.buffer_idx;
                arrived_.push_back(copy.key_idx);
                step_->loaded().release_part(static_cast<uint32_t>(lease_idxs_[copy.key_idx]), copy.part_idx);
            }
        }
        if (Status status = matmul.add_rows(inner, node, *view_, *step_, *weights_, arrived_); !status.ok()) {
            return status;
        }
        // While others wait for a buffer these are given back as soon as they were used; else with the step.
        if (next_copy_ == copies_.size() && !AheadCopies::pays(*view_)) {
            if (Status status = inner.submit(); !status.ok()) {
                return status;
            }
            continue;
        }
        if (Status status = inner.compute(); !status.ok()) {
            return status;
        }
        for (uint32_t i : arrived_) {
            tier_step_->release(buffers_[i]);
        }
    }
    return {};
}

// Waits until a copy of the node's part is complete; of a prompt's, which are many, until half of the ring is.
Status TieredLayer::wait_for_copy(const ExpertNode & node) {
    const uint32_t n_buffers = view_->model->tier->shape().n_buffers;
    uint32_t       n_left    = AheadCopies::pays(*view_) ? std::max(1u, n_buffers / 2) : 1;
    int32_t        last      = -1;
    wanted_.clear();
    for (Copy & copy : copies_) {
        if (copy.part_idx != node.part_idx || copy.used) {
            continue;
        }
        if (copy.buffer_idx >= 0 && n_left > 0) {
            last = copy.buffer_idx;
            n_left--;
        }
        wanted_.push_back(static_cast<uint32_t>(lease_idxs_[copy.key_idx]));
    }
    if (last >= 0) {
        tier_step_->wait_copy(last); // they are complete in the order in which they were begun
        return {};
    }
    // None was begun: the drive has not brought one yet, or other steps hold all buffers.
    lease_wanted_ = wanted_;
    lease_arrived_.clear();
    if (Status status = step_->loaded().wait_any(node.part_idx, lease_wanted_, lease_arrived_); !status.ok()) {
        return status;
    }
    for (Copy & copy : copies_) {
        if (copy.part_idx == node.part_idx && lease_idxs_[copy.key_idx] == static_cast<int32_t>(lease_arrived_[0])) {
            begin_copy(copy, tier_step_->n_held() == 0);
            if (copy.buffer_idx >= 0) {
                tier_step_->wait_copy(copy.buffer_idx);
            }
            break;
        }
    }
    return {};
}

// What was missing may be worth a slot: it is in the host's memory now. A prompt needs nearly every expert once: what
// it would bring says little of what decoding needs, and takes the link from what it waits for.
void TieredLayer::promote() {
    if (missing_.empty()) {
        return;
    }
    LoadStep &                        load      = step_->loaded();
    const std::shared_ptr<const void> hold      = step_->share_loaded();
    const size_t                      n_parts   = view_->part_order.size();
    const bool                        only_free = view_->n_tokens() > max_host_tokens;
    hi_keys_.clear();
    for (uint32_t i : missing_) {
        const ExpertKey   key              = step_->keys()[i];
        const auto        lease_idx        = static_cast<uint32_t>(lease_idxs_[i]);
        const std::byte * parts[max_parts] = {};
        bool              is_whole         = static_cast<bool>(load.leases()[lease_idx].slot);
        for (uint32_t p = 0; is_whole && p < n_parts; p++) {
            is_whole = load.ready(lease_idx, p);
            parts[p] = is_whole ? load.data(lease_idx, p) : nullptr;
        }
        if (is_whole) {
            view_->model->tier->promote(key, parts, hold, only_free);
        }
        if (key.precision == Precision::lo) {
            hi_keys_.push_back({key.layer_idx, key.expert_idx, Precision::hi});
        }
    }
    // An expert that is used much should be there in hi, however little it weighs each time.
    const std::shared_ptr<LoadStep> in_hi = view_->model->loader->pin_resident(hi_keys_);
    for (uint32_t i = 0; i < in_hi->leases().size(); i++) {
        const std::byte * parts[max_parts] = {};
        for (uint32_t p = 0; p < n_parts; p++) {
            parts[p] = in_hi->data(i, p);
        }
        view_->model->tier->promote(in_hi->leases()[i].key, parts, in_hi, only_free);
    }
}

bool TieredLayer::reads_pending(const ggml_tensor * expert_node) const {
    const ggml_tensor * input = expert_node->src[1];
    const ggml_tensor * base  = input->view_src != nullptr ? input->view_src : input;
    return std::any_of(pending_.begin(), pending_.end(), [base](const ExpertNode * p) { return p->node == base; });
}

} // namespace hobbit
