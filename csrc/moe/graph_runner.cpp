#include "moe/graph_runner.h"

#include "tier/device_tier.h"

#include <cstring>
#include <exception>

namespace hobbit {

namespace {

bool has_own_memory(ggml_backend_t backend) {
    return ggml_backend_dev_type(ggml_backend_get_device(backend)) != GGML_BACKEND_DEVICE_TYPE_CPU;
}

} // namespace

GraphRunner::GraphRunner(ggml_backend_t inner, IsExpertBuffer is_expert_buffer)
    : inner_backend_(inner), is_expert_buffer_(is_expert_buffer), is_gpu_(has_own_memory(inner)), inner_(inner),
      matmul_(inner), gates_(inner), reads_(inner), tiered_(inner), staged_(inner),
      arriving_(inner_, matmul_, !is_gpu_, [this] { return compute_run(); }) {}

void GraphRunner::set_n_threads(int n_threads) {
    n_threads_ = n_threads;
    tiered_.set_n_threads(n_threads);
}

void GraphRunner::set_inner_threads(int n_threads) {
    if (n_threads == n_computing_) {
        return;
    }
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(inner_backend_));
    if (auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
            ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"))) {
        set(inner_backend_, n_threads);
    }
    n_computing_ = n_threads;
}

ggml_status GraphRunner::compute(ggml_cgraph * graph) noexcept {
    ModelExperts * model = nullptr;
    Status         status;
    try {
        status = run(graph, model);
    } catch (const std::exception & error) { // out of memory, or a policy written in Python
        status = Status::error(error.what());
    }
    inner_.clear();
    end_layer();
    tiered_.drop_ahead();
    staged_.end_pass();
    if (model != nullptr) {
        thread_share_.on_pass(Timeline::now_us() - pass_us_, arriving_.stall_us());
    }
    if (status.ok()) {
        return GGML_STATUS_SUCCESS;
    }
    if (model != nullptr) {
        model->set_error(status);
    }
    return GGML_STATUS_FAILED;
}

void GraphRunner::end_layer() {
    tiered_.end();
    staged_.end();
    unified_.end();
    weights_.reset();
    step_.end();
}

// What no token waits for.
void GraphRunner::tend_to_layer() {
    step_.tell_later();
    tiered_.promote();
}

Status GraphRunner::compute_run(DeviceReads * reads) {
    if (view_.model == nullptr) {
        return inner_.compute();
    }
    const TimelineSpan span(*view_.model->timeline, Timeline::Kind::compute, view_.layer_idx);
    return inner_.compute(reads, [this] { tend_to_layer(); });
}

// Up to the router; also the end of the layer before, whose experts may go now.
Status GraphRunner::compute_to_router() {
    gates_.add_product(inner_);
    reads_.clear();
    if (view_.n_tokens() == 1) {
        reads_.want(view_.ids);
        reads_.want(tiered_.add_input(view_, inner_));
        if (view_.weights != nullptr) {
            reads_.want(view_.weights);
        }
        gates_.want(reads_);
    }
    return compute_run(&reads_);
}

Status GraphRunner::run(ggml_cgraph * graph, ModelExperts *& model) {
    const int n_nodes  = ggml_graph_n_nodes(graph);
    bool      is_whole = true; // no experts were asked for on the way
    inner_.reserve_nodes(n_nodes);
    inner_.set_parent(is_gpu_ ? graph : nullptr);
    begin_pass(graph);
    for (int i = 0; i < n_nodes;) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if (expert_tensor_of(node, is_expert_buffer_) == nullptr) {
            inner_.add(node);
            gates_.on_node(node);
            if (!is_gpu_) { // which fuses nodes: there the products come last in the run
                gates_.add_product(inner_);
            }
            if (filter_.is_selection(node)) {
                if (Status status = compute_run(); !status.ok()) {
                    return status;
                }
                if (Status status = filter_.apply(graph, i); !status.ok()) {
                    return status;
                }
            }
            ++i;
            continue;
        }
        find_layer(graph, i, is_expert_buffer_, view_);
        if (model == nullptr) {
            model = view_.model;
            model->counters.n_tokens += view_.n_tokens();
        }
        if (const HeldSlots held = model->loader != nullptr ? model->held(view_.layer_idx) : HeldSlots(); held) {
            add_in_order(graph, i, held);
        } else {
            if (Status status = compute_to_router(); !status.ok()) {
                return status;
            }
            end_layer();
            is_whole = false;
            if (Status status = compute_layer(graph); !status.ok()) {
                return status;
            }
        }
        i = view_.end_idx;
    }
    // As llama.cpp has it of a GPU: it goes on meanwhile, and waits when it wants the results.
    return is_gpu_ && is_whole ? inner_.submit() : compute_run();
}

// What predicts, how far ahead, and what filters the routers, is the model's to say.
void GraphRunner::begin_pass(ggml_cgraph * graph) {
    ModelExperts *      model    = nullptr;
    const ggml_tensor * tokens   = nullptr; // llama.cpp's input of token ids
    uint32_t            n_tokens = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph) && model == nullptr; ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_GET_ROWS && std::strcmp(node->src[1]->name, "inp_tokens") == 0) {
            tokens = node->src[1];
        } else if (const ExpertTensor * expert = expert_tensor_of(node, is_expert_buffer_); expert != nullptr) {
            model    = expert->model;
            n_tokens = static_cast<uint32_t>(node->src[2]->ne[1]);
        }
    }
    pass_us_ = Timeline::now_us();
    arriving_.begin_pass();
    if (model != nullptr || n_computing_ == 0) { // else as before: OpenMP makes new threads at every change
        set_inner_threads(thread_share_.n_computing(n_threads_, model != nullptr ? model->n_spare_threads : 0));
    }
    if (model != nullptr && model->tier != nullptr && !StagedLayer::takes_batch(*model, n_tokens)) {
        model->tier->take_back();
    }
    inner_.set_recurring(-1);
    filter_.begin_graph(model);
    recorder_.begin_graph(model);
    const LookAhead::Needs needs = ahead_.begin_pass(model, tokens, n_tokens);
    gates_.routers.begin_graph(graph, model, recorder_.more(needs.routers, Gates::routers));
    gates_.trained.begin_graph(graph, model, recorder_.more(needs.trained, Gates::trained));
}

Status GraphRunner::compute_layer(ggml_cgraph * graph) {
    if (view_.model->loader == nullptr) {
        return Status::error("the model's expert memory was not set before its first token");
    }
    if (Status status = filter_.check(view_); !status.ok()) {
        return status;
    }
    recorder_.read_weights(view_);
    inner_.set_recurring(-1);
    if (Status status = step_.select(view_, reads_, filter_.own_choice(view_)); !status.ok()) {
        return status;
    }
    if (Status status = recorder_.on_layer(view_, step_.ids(), gates_, reads_); !status.ok()) {
        return status;
    }
    if (step_.is_told()) { // else the loader evicts nothing, and its policy has yet to hear of this layer
        ahead_.tell_next_token(view_, gates_.trained, reads_);
    }
    const int  first_idx = view_.nodes.front().node_idx;
    const bool in_run    = view_.model->importance == nullptr; // what is recorded are the inputs of single nodes
    if (view_.model->tier != nullptr && in_run && StagedLayer::takes(view_, step_)) {
        tiered_.drop_ahead(); // others may wait for its buffers, and hold the slots that are to be borrowed
        staged_.begin(view_, step_);
        inner_.set_one_time(); // also for what is computed before the next router
        return staged_.run(graph, first_idx, inner_);
    }
    if (view_.model->tier != nullptr && in_run) {
        staged_.drop_ahead();
        tiered_.begin(view_, step_);
        return tiered_.joins_run() && ExpertMatmul::can_add_whole(view_, step_, tiered_.weights())
                   ? add_resident(graph, first_idx, tiered_.weights())
                   : tiered_.run(graph, first_idx, inner_, matmul_, reads_,
                                 [this] { ahead_.copy(view_, step_, gates_, reads_, tiered_); });
    }
    if (view_.model->tier != nullptr) {
        return Status::error("the inputs of experts are recorded on the CPU alone; leave vram out");
    }
    const bool in_order = in_run && UnifiedLayer::takes(view_, step_);
    if (in_order) {
        unified_.begin(view_); // before anything is pinned
    }
    step_.load_all(view_);
    weights_.emplace(*view_.model, step_.loaded(), every_lease_);
    ahead_.read(view_, step_, gates_, reads_);
    if (in_order && unified_.is_in_place(step_)) {
        return unified_.run(graph, first_idx, step_, inner_);
    }
    return in_run && step_.loaded().all_hit() && ExpertMatmul::can_add_whole(view_, step_, *weights_) &&
                   !matmul_.has_kernel(view_, weights_->key(0).precision)
               ? add_resident(graph, first_idx, *weights_)
               : arriving_.run(graph, first_idx, view_, step_, *weights_);
}

// All experts of the layer lie in order: the router's ids serve as they are.
void GraphRunner::add_in_order(ggml_cgraph * graph, int first_idx, HeldSlots held) {
    const ModelExperts & model     = *view_.model;
    const bool           has_tier  = model.tier != nullptr;
    const CopyLayouts &  layouts   = has_tier ? model.tier->layouts() : *model.layouts;
    const uint32_t       class_idx = layouts.of({view_.layer_idx, 0, held.precision}).class_idx;
    WeightArea           first     = has_tier ? model.device_arena->area(class_idx)
                                              : model.host_area(model.loader->arena(static_cast<int32_t>(class_idx)));
    first.data += static_cast<uint64_t>(held.first_idx) * layouts.classes[class_idx].slot_bytes;
    auto next = view_.nodes.begin();
    for (int i = first_idx; i < view_.end_idx; ++i) {
        if (next != view_.nodes.end() && next->node_idx == i) {
            ExpertMatmul::add_in_order(inner_, *next, view_, layouts, held.precision, first);
            ++next;
        } else {
            inner_.add(ggml_graph_node(graph, i));
        }
    }
    ++view_.model->counters.n_layer_steps;
    if (held.precision == Precision::lo) {
        view_.model->counters.n_pairs_lo += uint64_t{view_.n_used()} * view_.n_tokens();
    }
}

// Nothing is computed here: the layer's nodes join the run that ends at the next router. The step stays open, so its
// experts stay pinned, until then.
Status GraphRunner::add_resident(ggml_cgraph * graph, int first_idx, const ExpertWeights & weights) {
    const std::vector<int32_t> & slots = step_.slot_ids(weights);
    ggml_tensor *                ids   = inner_.ids(slots, view_.n_used(), view_.n_tokens());
    if (ids == nullptr) {
        return Status::error("out of memory for the slot numbers of " + std::to_string(slots.size()) + " rows");
    }
    auto next = view_.nodes.begin();
    for (int i = first_idx; i < view_.end_idx; ++i) {
        if (next != view_.nodes.end() && next->node_idx == i) {
            ExpertMatmul::add_whole(inner_, *next, view_, weights, weights.key(0).precision, ids);
            ++next;
        } else {
            inner_.add(ggml_graph_node(graph, i));
        }
    }
    return {};
}

} // namespace hobbit
