#include "loader/loader_impl.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

namespace hobbit {

LoadStep::LoadStep(Loader::Impl & loader, std::vector<Lease> leases)
    : loader_(loader), leases_(std::move(leases)), state_(std::make_unique<State>()) {}

LoadStep::~LoadStep() {
    std::vector<ReadOp> ops;
    {
        MutexLock lock(loader_.mu_);
        loader_.n_live_steps_--;
        for (size_t i = 0; i < leases_.size(); i++) {
            if (leases_[i].slot) {
                loader_.load_of(leases_[i].slot).n_borrows -= borrows_ ? 1 : 0;
                loader_.unpin(leases_[i].slot);
                continue;
            }
            for (const int32_t request_idx : state_->request_idxs[i]) {
                if (request_idx >= 0) {
                    loader_.drop_request(request_idx);
                }
            }
        }
        ops = loader_.next_ops();
    }
    loader_.submit(std::move(ops));
}

bool LoadStep::all_hit() const {
    return std::all_of(leases_.begin(), leases_.end(), [](const Lease & lease) { return lease.hit; });
}

bool LoadStep::ready(uint32_t lease_idx, uint32_t part_idx) const {
    if (leases_[lease_idx].hit) {
        return true; // pinned, and complete since the step began
    }
    MutexLock lock(loader_.mu_);
    return loader_.view_part(leases_[lease_idx], state_->request_idxs[lease_idx][part_idx], part_idx).state ==
           Loader::Impl::PartState::ready;
}

const std::byte * LoadStep::data(uint32_t lease_idx, uint32_t part_idx) const {
    const Lease & lease = leases_[lease_idx];
    if (lease.slot) {
        return loader_.slot_data(lease.slot, lease.key, part_idx);
    }
    MutexLock lock(loader_.mu_);
    return loader_.view_part(lease, state_->request_idxs[lease_idx][part_idx], part_idx).data;
}

Status LoadStep::wait_any(uint32_t part_idx, std::vector<uint32_t> & wanted, std::vector<uint32_t> & arrived) {
    std::vector<LeasePart> & wanted_parts  = state_->wanted;
    std::vector<LeasePart> & arrived_parts = state_->arrived;
    wanted_parts.clear();
    arrived_parts.clear();
    for (const uint32_t lease_idx : wanted) {
        wanted_parts.push_back({lease_idx, part_idx});
    }
    const Status status = wait_any(wanted_parts, arrived_parts);
    wanted.clear();
    for (const LeasePart & part : wanted_parts) {
        wanted.push_back(part.lease_idx);
    }
    for (const LeasePart & part : arrived_parts) {
        arrived.push_back(part.lease_idx);
    }
    return status;
}

Status LoadStep::wait_any(std::vector<LeasePart> & wanted, std::vector<LeasePart> & arrived) {
    using Clock     = std::chrono::steady_clock;
    using PartState = Loader::Impl::PartState;
    assert(!wanted.empty());

    MutexLock         lock(loader_.mu_);
    bool              has_waited = false;
    Clock::time_point start;
    Status            status;
    for (bool is_done = false; !is_done;) {
        size_t n_kept = 0;
        for (size_t i = 0; i < wanted.size(); i++) {
            const LeasePart part        = wanted[i];
            const int32_t   request_idx = state_->request_idxs[part.lease_idx][part.part_idx];
            const auto      view        = loader_.view_part(leases_[part.lease_idx], request_idx, part.part_idx);
            if (view.state == PartState::ready) {
                arrived.push_back(part);
                is_done = true;
                continue;
            }
            if (view.state == PartState::failed && status.ok()) {
                status  = *view.status;
                is_done = true;
            }
            wanted[n_kept++] = part;
        }
        wanted.resize(n_kept);
        if (!is_done) {
            if (!has_waited) {
                has_waited = true;
                start      = Clock::now();
            }
            loader_.changed_.wait(loader_.mu_);
        }
    }
    if (has_waited) {
        loader_.stats_.stall_us +=
            static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count());
    }
    return status;
}

void LoadStep::release_part(uint32_t lease_idx, uint32_t part_idx) {
    if (leases_[lease_idx].slot) {
        return; // pinned to the end of the step
    }
    std::vector<ReadOp> ops;
    {
        MutexLock lock(loader_.mu_);
        int32_t & request_idx = state_->request_idxs[lease_idx][part_idx];
        if (request_idx >= 0) {
            loader_.drop_request(request_idx);
            request_idx = -1;
            ops         = loader_.next_ops();
        }
    }
    loader_.submit(std::move(ops));
}

} // namespace hobbit
