// Our kernels against ggml's for the same rows: the same bits.
#include "kernels/row_kernel.h"

#include "doctest/doctest.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

using namespace hobbit::kernels;

namespace {

struct Case {
    ggml_type         type;
    const RowKernel * kernel;
    int64_t           n_in;
};

std::vector<float> random_values(size_t n, float scale, uint32_t seed) {
    std::mt19937                    random(seed);
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float>              values(n);
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

std::vector<float> by_ggml(const Case & c, const std::vector<char> & rows, int64_t n_rows,
                           const std::vector<float> & inputs) {
    const ggml_type_traits_cpu * traits = ggml_get_type_traits_cpu(c.type);
    std::vector<char>            quants(ggml_row_size(traits->vec_dot_type, c.n_in));
    ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(inputs.data(), quants.data(), c.n_in);
    std::vector<float> outputs(static_cast<size_t>(n_rows));
    for (int64_t i = 0; i < n_rows; ++i) {
        const char * row = rows.data() + ggml_row_size(c.type, c.n_in) * static_cast<size_t>(i);
        traits->vec_dot(static_cast<int>(c.n_in), &outputs[static_cast<size_t>(i)], 0, row, 0, quants.data(), 0, 1);
    }
    return outputs;
}

std::vector<float> by_ours(const Case & c, const std::vector<char> & rows, int64_t n_rows,
                           const std::vector<float> & inputs) {
    std::vector<InputBlock> blocks(static_cast<size_t>(c.n_in / block_weights));
    c.kernel->quantize(inputs.data(), c.n_in, blocks.data());
    std::vector<float> outputs(static_cast<size_t>(n_rows));
    c.kernel->multiply(rows.data(), c.n_in, n_rows, blocks.data(), outputs.data());
    return outputs;
}

std::vector<Case> cases() {
    ggml_cpu_init();
    std::vector<Case> all;
    for (const int64_t n_in : {256, 768, 2048}) {
        all.push_back({GGML_TYPE_Q2_K, q2_k_kernel(), n_in});
        all.push_back({GGML_TYPE_Q3_K, q3_k_kernel(), n_in});
        all.push_back({GGML_TYPE_IQ4_XS, iq4_xs_kernel(), n_in});
    }
    return all;
}

// ggml adds up in another order without AVX2.
bool can_compare(const Case & c) { return c.kernel != nullptr && ggml_cpu_has_avx2() != 0; }

} // namespace

TEST_CASE("kernels are there exactly where the processor has what they need") {
    const bool wanted = ggml_cpu_has_avx512_vnni() != 0;
    for (const Case & c : cases()) {
        // ggml says what it was built for, which may be less than what the processor has.
        CHECK((c.kernel != nullptr || !wanted));
    }
}

TEST_CASE("products are ggml's, bit for bit") {
    constexpr int64_t n_rows = 37;
    uint32_t          seed   = 1;
    for (const Case & c : cases()) {
        if (!can_compare(c)) {
            continue;
        }
        CHECK(c.kernel->block_bytes == ggml_type_size(c.type));
        for (const float scale : {1e-4F, 1.0F, 300.0F}) {
            CAPTURE(ggml_type_name(c.type));
            CAPTURE(c.n_in);
            const auto rows =
                quantized(c.type, random_values(static_cast<size_t>(n_rows * c.n_in), 0.02F, seed++), c.n_in);
            const auto inputs = random_values(static_cast<size_t>(c.n_in), scale, seed++);
            CHECK(by_ours(c, rows, n_rows, inputs) == by_ggml(c, rows, n_rows, inputs));
        }
    }
}

TEST_CASE("products of any bytes are ggml's, bit for bit") {
    constexpr int64_t n_rows = 64;
    std::mt19937      random(7);
    for (const Case & c : cases()) {
        if (!can_compare(c)) {
            continue;
        }
        // All scales, mins and quants that there are; only the block's own scales must be numbers.
        std::vector<char> rows(ggml_row_size(c.type, c.n_in) * n_rows);
        for (char & byte : rows) {
            byte = static_cast<char>(random());
        }
        // Where a block has its own scales, in half precision.
        const std::vector<size_t> scale_bytes = c.type == GGML_TYPE_Q2_K   ? std::vector<size_t>{80, 82}
                                                : c.type == GGML_TYPE_Q3_K ? std::vector<size_t>{108}
                                                                           : std::vector<size_t>{0};
        for (size_t block = 0; block < rows.size(); block += ggml_type_size(c.type)) {
            for (const size_t at : scale_bytes) {
                rows[block + at + 1] = static_cast<char>(random() % 0x40); // below 2, positive
            }
        }
        const auto inputs = random_values(static_cast<size_t>(c.n_in), 1.0F, 11);
        CAPTURE(ggml_type_name(c.type));
        CHECK(by_ours(c, rows, n_rows, inputs) == by_ggml(c, rows, n_rows, inputs));
    }
}

TEST_CASE("inputs of zeros, and of one value alone") {
    for (const Case & c : cases()) {
        if (!can_compare(c)) {
            continue;
        }
        const auto         rows = quantized(c.type, random_values(static_cast<size_t>(4 * c.n_in), 1.0F, 3), c.n_in);
        std::vector<float> inputs(static_cast<size_t>(c.n_in), 0.0F);
        CHECK(by_ours(c, rows, 4, inputs) == by_ggml(c, rows, 4, inputs));
        inputs[200] = -3.5F;
        inputs[201] = 3.5F; // as far from zero: the first decides on the sign of the scale
        CHECK(by_ours(c, rows, 4, inputs) == by_ggml(c, rows, 4, inputs));
        inputs.assign(inputs.size(), -1.0F);
        CHECK(by_ours(c, rows, 4, inputs) == by_ggml(c, rows, 4, inputs));
    }
}

// Not a test: hobbit_tests_ggml --test-case="how long a matrix takes" --no-skip
TEST_CASE("how long a matrix takes" * doctest::skip()) {
    constexpr int64_t n_weights = 2048 * 768, n_matrices = 128;
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
        if (!can_compare(c) || n_weights % c.n_in != 0 || c.n_in == 256) {
            continue;
        }
        const int64_t     n_rows = n_weights / c.n_in;
        const auto        matrix = quantized(c.type, random_values(n_weights, 0.02F, 1), c.n_in);
        std::vector<char> all; // more than caches hold
        for (int64_t i = 0; i < n_matrices; ++i) {
            all.insert(all.end(), matrix.begin(), matrix.end());
        }
        const auto         inputs = random_values(static_cast<size_t>(c.n_in), 1.0F, 2);
        std::vector<float> outputs(static_cast<size_t>(n_rows));
        const auto *       traits = ggml_get_type_traits_cpu(c.type);
        std::vector<char>  quants(ggml_row_size(traits->vec_dot_type, c.n_in));
        ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(inputs.data(), quants.data(), c.n_in);
        std::vector<InputBlock> blocks(static_cast<size_t>(c.n_in / block_weights));
        c.kernel->quantize(inputs.data(), c.n_in, blocks.data());
        const double ggml_us = median_us([&](int64_t i) {
            const char * row = all.data() + static_cast<size_t>(i) * matrix.size();
            for (float & output : outputs) {
                traits->vec_dot(static_cast<int>(c.n_in), &output, 0, row, 0, quants.data(), 0, 1);
                row += ggml_row_size(c.type, c.n_in);
            }
        });
        const double our_us  = median_us([&](int64_t i) {
            c.kernel->multiply(all.data() + static_cast<size_t>(i) * matrix.size(), c.n_in, n_rows, blocks.data(),
                               outputs.data());
        });
        std::printf("%s, %lld x %lld, one core: ggml %.1f us, ours %.1f us\n", ggml_type_name(c.type),
                    static_cast<long long>(n_rows), static_cast<long long>(c.n_in), ggml_us, our_us);
    }
}
