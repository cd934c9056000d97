#include "kernels/mmvq.h"

namespace hobbit::kernels {

namespace {

const MmvqKernel * first_of(const MmvqKernel * faster, const MmvqKernel * other) {
    return faster != nullptr ? faster : other;
}

} // namespace

const MmvqKernel * mmvq_q8_0_kernel() { return first_of(mmvq_q8_0_avx512(), mmvq_q8_0_avx2()); }
const MmvqKernel * mmvq_q4_k_kernel() { return first_of(mmvq_q4_k_avx512(), mmvq_q4_k_avx2()); }
const MmvqKernel * mmvq_q5_k_kernel() { return first_of(mmvq_q5_k_avx512(), mmvq_q5_k_avx2()); }
const MmvqKernel * mmvq_q6_k_kernel() { return first_of(mmvq_q6_k_avx512(), mmvq_q6_k_avx2()); }

} // namespace hobbit::kernels
