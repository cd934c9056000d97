#include "moe/model_experts.h"

#include "moe/importance.h"

#include <utility>

namespace hobbit {

ModelExperts::ModelExperts()  = default;
ModelExperts::~ModelExperts() = default;

void ModelExperts::set_error(const Status & error) {
    MutexLock lock(mu_);
    if (error_.ok()) {
        error_ = error;
    }
}

Status ModelExperts::take_error() {
    MutexLock lock(mu_);
    return std::exchange(error_, Status());
}

} // namespace hobbit
