// The kernels that round as a CUDA device does: each against the plain one, and that against sums in double precision.
// Whether a device does it so is tried where there is one (moe/device_rounding.h).
#include "kernels/mmvq.h"

#include "doctest/doctest.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace hobbit::kernels;

namespace {

// A whole pass of the 128 threads is 1024 weights: less, more, and odd ends.
constexpr int64_t sizes[] = {128, 256, 768, 1024, 1408, 2048, 14336};

std::vector<float> random_values(int64_t n, float scale, uint32_t seed) {
    std::mt19937                    random(seed);
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float>              values(static_cast<size_t>(n));
    for (float & v : values) {
        v = normal(random);
    }
    return values;
}

std::vector<char> q8_0(const std::vector<float> & values, int64_t n_in) {
    const auto        n_rows = static_cast<int64_t>(values.size()) / n_in;
    std::vector<char> rows(ggml_row_size(GGML_TYPE_Q8_0, n_in) * static_cast<size_t>(n_rows));
    ggml_quantize_chunk(GGML_TYPE_Q8_0, values.data(), rows.data(), 0, n_rows, n_in, nullptr);
    return rows;
}

std::vector<float> floats(const std::vector<char> & rows, size_t n) {
    std::vector<float> values(n);
    ggml_get_type_traits(GGML_TYPE_Q8_0)->to_float(rows.data(), values.data(), static_cast<int64_t>(n));
    return values;
}

std::vector<float> product(const MmvqKernel & kernel, const std::vector<char> & rows, int64_t n_in,
                           const std::vector<char> & input) {
    const auto             n_rows = static_cast<int64_t>(rows.size() / ggml_row_size(GGML_TYPE_Q8_0, n_in));
    std::vector<MmvqInput> inputs(static_cast<size_t>(n_in / MmvqKernel::input_weights));
    kernel.arrange(input.data(), n_in, inputs.data());
    std::vector<float> outputs(static_cast<size_t>(n_rows));
    kernel.multiply(rows.data(), n_in, n_rows, inputs.data(), outputs.data());
    return outputs;
}

std::vector<const MmvqKernel *> kernels_here() {
    ggml_cpu_init();
    std::vector<const MmvqKernel *> found{mmvq_q8_0_avx512(), mmvq_q8_0_avx2(), mmvq_q8_0_kernel()};
    found.erase(std::remove(found.begin(), found.end(), nullptr), found.end());
    return found;
}

} // namespace

TEST_CASE("the plain kernel multiplies") {
    ggml_cpu_init();
    for (const int64_t n_in : sizes) {
        CAPTURE(n_in);
        const auto rows  = q8_0(random_values(5 * n_in, 0.02F, 1), n_in);
        const auto input = q8_0(random_values(n_in, 3.0F, 2), n_in);
        const auto w     = floats(rows, static_cast<size_t>(5 * n_in));
        const auto x     = floats(input, static_cast<size_t>(n_in));
        const auto found = product(mmvq_q8_0_reference(), rows, n_in, input);
        for (size_t row = 0; row < found.size(); ++row) {
            double sum = 0, of_sizes = 0;
            for (size_t i = 0; i < x.size(); ++i) {
                const double p = double{x[i]} * double{w[row * x.size() + i]};
                sum += p;
                of_sizes += std::abs(p);
            }
            CHECK(std::abs(found[row] - sum) <= 1e-6 * of_sizes);
        }
    }
}

TEST_CASE("all kernels give the plain one's bits") {
    uint32_t seed = 1;
    for (const MmvqKernel * kernel : kernels_here()) {
        CHECK(kernel->block_bytes == ggml_type_size(GGML_TYPE_Q8_0));
        for (const int64_t n_in : sizes) {
            for (const float scale : {1e-5F, 1.0F, 3000.0F}) {
                CAPTURE(n_in);
                const auto rows  = q8_0(random_values(37 * n_in, 0.02F, seed++), n_in);
                const auto input = q8_0(random_values(n_in, scale, seed++), n_in);
                CHECK(product(*kernel, rows, n_in, input) == product(mmvq_q8_0_reference(), rows, n_in, input));
            }
        }
    }
}

TEST_CASE("so they do for any bytes") {
    std::mt19937 random(7);
    for (const MmvqKernel * kernel : kernels_here()) {
        for (const int64_t n_in : sizes) {
            // All quants that there are, -128 among the weights', and scales that are not numbers left out.
            std::vector<char> rows(ggml_row_size(GGML_TYPE_Q8_0, n_in) * 16),
                input(ggml_row_size(GGML_TYPE_Q8_0, n_in));
            const auto fill = [&](std::vector<char> & blocks, int least) {
                for (size_t i = 0; i < blocks.size(); ++i) {
                    blocks[i] = static_cast<char>(std::max(least, static_cast<int>(random() % 256) - 128));
                    if (i % kernel->block_bytes == 1) {
                        blocks[i] = static_cast<char>(random() % 0x40 + 0x80 * (random() % 2)); // within 2 of zero
                    }
                }
            };
            fill(rows, -128);
            fill(input, -127);
            CAPTURE(n_in);
            CHECK(product(*kernel, rows, n_in, input) == product(mmvq_q8_0_reference(), rows, n_in, input));
        }
    }
}

// Not a test: hobbit_tests_ggml --test-case="how long a Q8_0 matrix takes" --no-skip
TEST_CASE("how long a Q8_0 matrix takes" * doctest::skip()) {
    constexpr int64_t n_weights = 2048 * 768, n_matrices = 64;
    ggml_cpu_init();
    const auto median_us = [](auto && multiply) {
        std::vector<double> us;
        for (int round = 0; round < 7; ++round) {
            const auto start = std::chrono::steady_clock::now();
            for (int64_t i = 0; i < n_matrices; ++i) {
                multiply(i);
            }
            us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
        }
        std::sort(us.begin(), us.end());
        return us[us.size() / 2] / n_matrices;
    };
    for (const int64_t n_in : {768, 2048}) {
        const int64_t     n_rows = n_weights / n_in;
        const auto        matrix = q8_0(random_values(n_weights, 0.02F, 1), n_in);
        std::vector<char> all; // more than caches hold
        for (int64_t i = 0; i < n_matrices; ++i) {
            all.insert(all.end(), matrix.begin(), matrix.end());
        }
        const auto         input = q8_0(random_values(n_in, 1.0F, 2), n_in);
        std::vector<float> outputs(static_cast<size_t>(n_rows));
        const auto *       traits = ggml_get_type_traits_cpu(GGML_TYPE_Q8_0);
        std::printf("%lld x %lld, one core: ggml %.1f us", static_cast<long long>(n_rows), static_cast<long long>(n_in),
                    median_us([&](int64_t i) {
                        const char * row = all.data() + static_cast<size_t>(i) * matrix.size();
                        for (float & output : outputs) {
                            traits->vec_dot(static_cast<int>(n_in), &output, 0, row, 0, input.data(), 0, 1);
                            row += ggml_row_size(GGML_TYPE_Q8_0, n_in);
                        }
                    }));
        for (const MmvqKernel * kernel : kernels_here()) {
            std::vector<MmvqInput> inputs(static_cast<size_t>(n_in / MmvqKernel::input_weights));
            kernel->arrange(input.data(), n_in, inputs.data());
            std::printf(", ours %.1f us", median_us([&](int64_t i) {
                            kernel->multiply(all.data() + static_cast<size_t>(i) * matrix.size(), n_in, n_rows,
                                             inputs.data(), outputs.data());
                        }));
        }
        std::printf("\n");
    }
}
