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
#include <random>
#include <utility>
#include <vector>

using namespace hobbit::kernels;

namespace {

struct Case {
    ggml_type          type;
    const MmvqKernel * kernel;
    const MmvqKernel * reference;
    int64_t            n_in;
};

std::vector<float> random_values(int64_t n, float scale, uint32_t seed) {
    std::mt19937                    random(seed);
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float>              values(static_cast<size_t>(n));
    for (float & v : values) {
        v = normal(random);
    }
    return values;
}

std::vector<char> quantized(ggml_type type, const std::vector<float> & values, int64_t n_in) {
    const auto        n_rows = static_cast<int64_t>(values.size()) / n_in;
    std::vector<char> rows(ggml_row_size(type, n_in) * static_cast<size_t>(n_rows));
    ggml_quantize_chunk(type, values.data(), rows.data(), 0, n_rows, n_in, nullptr);
    return rows;
}

std::vector<float> floats(ggml_type type, const std::vector<char> & rows, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    ggml_get_type_traits(type)->to_float(rows.data(), values.data(), n);
    return values;
}

std::vector<float> product(const MmvqKernel & kernel, ggml_type type, const std::vector<char> & rows, int64_t n_in,
                           const std::vector<char> & input) {
    ArrangedInputs inputs(kernel, n_in);
    kernel.arrange(input.data(), n_in, inputs.data());
    std::vector<float> outputs(rows.size() / ggml_row_size(type, n_in));
    kernel.multiply(rows.data(), n_in, static_cast<int64_t>(outputs.size()), inputs.data(), outputs.data());
    return outputs;
}

// Each that there is here. A whole turn of the 128 threads is 1024 weights of Q8_0 and Q6_K and 2048 of Q4_K: less,
// more, and odd ends. Of Q5_K as of Q4_K.
std::vector<Case> cases() {
    ggml_cpu_init();
    std::vector<Case> all;
    for (const int64_t n_in : {128, 256, 768, 1024, 1408, 2048, 2304, 14336}) {
        for (const MmvqKernel * kernel : {mmvq_q8_0_avx512(), mmvq_q8_0_avx2()}) {
            all.push_back({GGML_TYPE_Q8_0, kernel, &mmvq_q8_0_reference(), n_in});
        }
        for (const MmvqKernel * kernel : {mmvq_q4_k_avx512(), mmvq_q4_k_avx2()}) {
            all.push_back({GGML_TYPE_Q4_K, kernel, &mmvq_q4_k_reference(), n_in});
        }
        for (const MmvqKernel * kernel : {mmvq_q5_k_avx512(), mmvq_q5_k_avx2()}) {
            all.push_back({GGML_TYPE_Q5_K, kernel, &mmvq_q5_k_reference(), n_in});
        }
        for (const MmvqKernel * kernel : {mmvq_q6_k_avx512(), mmvq_q6_k_avx2()}) {
            all.push_back({GGML_TYPE_Q6_K, kernel, &mmvq_q6_k_reference(), n_in});
        }
    }
    const auto is_none = [](const Case & c) { return c.kernel == nullptr || c.n_in % c.kernel->input_weights != 0; };
    all.erase(std::remove_if(all.begin(), all.end(), is_none), all.end());
    return all;
}

} // namespace

TEST_CASE("the plain kernels multiply") {
    ggml_cpu_init();
    const std::pair<ggml_type, const MmvqKernel *> kernels[] = {{GGML_TYPE_Q8_0, &mmvq_q8_0_reference()},
                                                                {GGML_TYPE_Q4_K, &mmvq_q4_k_reference()},
                                                                {GGML_TYPE_Q5_K, &mmvq_q5_k_reference()},
                                                                {GGML_TYPE_Q6_K, &mmvq_q6_k_reference()}};
    for (const auto & [type, kernel] : kernels) {
        for (const int64_t n_in : {256, 768, 2048}) {
            CAPTURE(ggml_type_name(type));
            CAPTURE(n_in);
            const auto rows  = quantized(type, random_values(5 * n_in, 0.02F, 1), n_in);
            const auto input = quantized(GGML_TYPE_Q8_0, random_values(n_in, 3.0F, 2), n_in);
            const auto w     = floats(type, rows, 5 * n_in);
            const auto x     = floats(GGML_TYPE_Q8_0, input, n_in);
            const auto found = product(*kernel, type, rows, n_in, input);
            for (size_t row = 0; row < 5; ++row) {
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
}

TEST_CASE("all kernels give the plain ones' bits") {
    uint32_t seed = 1;
    for (const Case & c : cases()) {
        CHECK(c.kernel->block_bytes == ggml_type_size(c.type));
        CHECK(c.kernel->input_weights % ggml_blck_size(c.type) == 0);
        for (const float scale : {1e-5F, 1.0F, 3000.0F}) {
            CAPTURE(ggml_type_name(c.type));
            CAPTURE(c.n_in);
            const auto rows  = quantized(c.type, random_values(37 * c.n_in, 0.02F, seed++), c.n_in);
            const auto input = quantized(GGML_TYPE_Q8_0, random_values(c.n_in, scale, seed++), c.n_in);
            CHECK(product(*c.kernel, c.type, rows, c.n_in, input) ==
                  product(*c.reference, c.type, rows, c.n_in, input));
        }
    }
}

TEST_CASE("so they do for any bytes") {
    std::mt19937 random(7);
    // Where a block has its own scales, in half precision, which must be numbers; all else may be anything.
    const auto fill = [&](std::vector<char> & blocks, int least, ggml_type type, const std::vector<size_t> & scales) {
        for (char & byte : blocks) {
            byte = static_cast<char>(std::max(least, static_cast<int>(random() % 256) - 128));
        }
        for (size_t block = 0; block < blocks.size(); block += ggml_type_size(type)) {
            for (const size_t at : scales) {
                blocks[block + at + 1] = static_cast<char>(random() % 0x40 + 0x80 * (random() % 2)); // within 2 of zero
            }
        }
    };
    for (const Case & c : cases()) {
        std::vector<char> rows(ggml_row_size(c.type, c.n_in) * 16), input(ggml_row_size(GGML_TYPE_Q8_0, c.n_in));
        const std::vector<size_t> scales = c.type == GGML_TYPE_Q8_0   ? std::vector<size_t>{0}
                                           : c.type == GGML_TYPE_Q6_K ? std::vector<size_t>{208}
                                                                      : std::vector<size_t>{0, 2};
        fill(rows, -128, c.type, scales);
        fill(input, -127, GGML_TYPE_Q8_0, {0});
        CAPTURE(ggml_type_name(c.type));
        CAPTURE(c.n_in);
        CHECK(product(*c.kernel, c.type, rows, c.n_in, input) == product(*c.reference, c.type, rows, c.n_in, input));
    }
}

// Not a test: hobbit_tests_ggml --test-case="how long a matrix takes to a device's bits" --no-skip
TEST_CASE("how long a matrix takes to a device's bits" * doctest::skip()) {
    constexpr int64_t n_weights = 2048 * 768, n_matrices = 64;
    const auto        median_us = [](auto && multiply) {
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
    for (const Case & c : cases()) {
        if (c.n_in != 768 && c.n_in != 2048) {
            continue;
        }
        const int64_t     n_rows = n_weights / c.n_in;
        const auto        matrix = quantized(c.type, random_values(n_weights, 0.02F, 1), c.n_in);
        std::vector<char> all; // more than caches hold
        for (int64_t i = 0; i < n_matrices; ++i) {
            all.insert(all.end(), matrix.begin(), matrix.end());
        }
        const auto         values = random_values(c.n_in, 1.0F, 2);
        const auto         input  = quantized(GGML_TYPE_Q8_0, values, c.n_in);
        std::vector<float> outputs(static_cast<size_t>(n_rows));
        const auto *       traits = ggml_get_type_traits_cpu(c.type);
        std::vector<char>  quants(ggml_row_size(traits->vec_dot_type, c.n_in));
        ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(values.data(), quants.data(), c.n_in);
        ArrangedInputs inputs(*c.kernel, c.n_in);
        c.kernel->arrange(input.data(), c.n_in, inputs.data());
        const double ggml_us = median_us([&](int64_t i) {
            const char * row = all.data() + static_cast<size_t>(i) * matrix.size();
            for (float & output : outputs) {
                traits->vec_dot(static_cast<int>(c.n_in), &output, 0, row, 0, quants.data(), 0, 1);
                row += ggml_row_size(c.type, c.n_in);
            }
        });
        const double our_us  = median_us([&](int64_t i) {
            c.kernel->multiply(all.data() + static_cast<size_t>(i) * matrix.size(), c.n_in, n_rows, inputs.data(),
                               outputs.data());
        });
        std::printf("%s, %lld x %lld, one core: ggml %.1f us, ours %.1f us\n", ggml_type_name(c.type),
                    static_cast<long long>(n_rows), static_cast<long long>(c.n_in), ggml_us, our_us);
    }
}
