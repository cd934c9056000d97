// Products that the host rounds as a device does: what may be so multiplied, and the nodes that do it. The CPU stands
// for the device.
#include "moe/device_rounding.h"

#include "ggml-cpu.h"
#include "moe/kernel_nodes.h"
#include "moe/quantized_inputs.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

using namespace hobbit;

namespace {

constexpr int64_t n_in = 256, n_out = 48;

struct Host {
    GgmlBackendPtr backend{ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)};
    InnerGraph     graph{backend.get()};
};

std::vector<float> random_values(int64_t n, uint32_t seed) {
    std::mt19937                    random(seed);
    std::normal_distribution<float> normal;
    std::vector<float>              values(static_cast<size_t>(n));
    for (float & v : values) {
        v = normal(random);
    }
    return values;
}

std::vector<char> quantized(ggml_type type, const std::vector<float> & values) {
    const auto        n_rows = static_cast<int64_t>(values.size()) / n_in;
    std::vector<char> rows(ggml_row_size(type, n_in) * static_cast<size_t>(n_rows));
    ggml_quantize_chunk(type, values.data(), rows.data(), 0, n_rows, n_in, nullptr);
    return rows;
}

ggml_tensor rows_of(ggml_type type, int64_t n_rows, ggml_backend_buffer_t buffer, void * data) {
    ggml_tensor t = flat_tensor(type, static_cast<size_t>(n_in), buffer, data);
    t.ne[1]       = n_rows;
    t.nb[1]       = ggml_row_size(type, n_in);
    t.nb[2] = t.nb[3] = t.nb[1] * static_cast<size_t>(n_rows);
    return t;
}

} // namespace

TEST_CASE("a device that rounds in another way is found out") {
    const std::set<RowShape> shapes = {{GGML_TYPE_Q8_0, n_in}, {GGML_TYPE_Q8_0, 1024}};
    const auto tried = DeviceRounding::tried(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), shapes);
    CHECK_FALSE(tried.covers(GGML_TYPE_Q8_0, n_in));
    CHECK_FALSE(tried.covers(GGML_TYPE_Q8_0, 1024));
    CHECK_FALSE(tried.covers_all());
    CHECK_FALSE(DeviceRounding().covers_all());
}

TEST_CASE("what is covered are shapes with a kernel") {
    const bool has_kernel = mmvq_kernel_for(GGML_TYPE_Q8_0, n_in) != nullptr;
    const auto rounding =
        DeviceRounding::assumed({{GGML_TYPE_Q8_0, n_in}, {GGML_TYPE_Q8_0, n_in + 32}, {GGML_TYPE_F16, n_in}});
    CHECK(rounding.covers(GGML_TYPE_Q8_0, n_in) == has_kernel);
    CHECK_FALSE(rounding.covers(GGML_TYPE_Q8_0, n_in + 32)); // no whole blocks of a kernel
    CHECK_FALSE(rounding.covers(GGML_TYPE_Q8_0, 512));       // not tried
    CHECK_FALSE(rounding.covers(GGML_TYPE_F16, n_in));
    CHECK(mmvq_kernel_for(GGML_TYPE_Q4_K, n_in + 128) == nullptr);
    CHECK_FALSE(rounding.covers_all());
    CHECK(DeviceRounding::assumed({{GGML_TYPE_Q8_0, n_in}}).covers_all() == has_kernel);
}

TEST_CASE("inputs get a twin of quants, once, at the same address in every layer") {
    Host                  host;
    QuantizedInputs       quants(host.backend.get());
    std::vector<float>    values = random_values(3 * n_in, 1);
    alignas(64) std::byte anchor[64];
    const GgmlBufferPtr   buffer(ggml_backend_cpu_buffer_from_ptr(anchor, sizeof(anchor)));
    ggml_tensor           one = rows_of(GGML_TYPE_F32, 1, buffer.get(), values.data());
    ggml_tensor           two = rows_of(GGML_TYPE_F32, 2, buffer.get(), values.data() + n_in);
    CHECK(quants.of(&one) == nullptr);
    const ggml_tensor * of_one = quants.add(host.graph, &one);
    const ggml_tensor * of_two = quants.add(host.graph, &two);
    REQUIRE(of_one != nullptr);
    REQUIRE(of_two != nullptr);
    CHECK(of_one != of_two);
    CHECK(quants.add(host.graph, &one) == of_one);
    REQUIRE(host.graph.compute().ok());
    CHECK(ggml_nbytes(of_two) == 2 * ggml_nbytes(of_one));
    std::vector<char> found(3 * ggml_nbytes(of_one));
    ggml_backend_tensor_get(of_one, found.data(), 0, ggml_nbytes(of_one));
    ggml_backend_tensor_get(of_two, found.data() + ggml_nbytes(of_one), 0, ggml_nbytes(of_two));
    std::vector<char> wanted(found.size());
    ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float(values.data(), wanted.data(), 3 * n_in);
    CHECK(found == wanted);

    quants.clear();
    CHECK(quants.of(&one) == nullptr);
    CHECK(quants.add(host.graph, &two) == of_one);
    REQUIRE(host.graph.compute().ok());

    ggml_tensor large = rows_of(GGML_TYPE_F32, 1 << 20, buffer.get(), values.data());
    CHECK(quants.add(host.graph, &large) == nullptr); // and no node
    CHECK(host.graph.empty());
}

TEST_CASE("a node multiplies rows of several slots") {
    constexpr int64_t           n_slots = 3;
    const std::vector<int32_t>  slot_idxs{2, 0}, row_idxs{1, 3};
    const kernels::MmvqKernel * kernel = mmvq_kernel_for(GGML_TYPE_Q8_0, n_in);
    if (kernel == nullptr) {
        return; // nothing is multiplied so on this processor
    }
    Host              host;
    std::vector<char> weights = quantized(GGML_TYPE_Q8_0, random_values(n_slots * n_out * n_in, 2));
    std::vector<char> inputs  = quantized(GGML_TYPE_Q8_0, random_values(4 * n_in, 3));
    for (const bool is_shared : {true, false}) {
        const std::vector<int32_t>  input_idxs = is_shared ? std::vector<int32_t>{0} : row_idxs;
        std::vector<float>          outputs(4 * n_out, -1.0F);
        alignas(64) std::byte       scratch[2 * n_in * sizeof(float)];
        const GgmlBufferPtr         buffer(ggml_backend_cpu_buffer_from_ptr(scratch, sizeof(scratch)));
        const ggml_backend_buffer_t any = buffer.get();
        ggml_tensor * w = host.graph.tensor_over(GGML_TYPE_Q8_0, n_in, n_out, n_slots, any, weights.data());
        ggml_tensor * x = host.graph.tensor_over(GGML_TYPE_Q8_0, n_in, 4, 1, any, inputs.data());
        ggml_tensor * y = host.graph.tensor_over(GGML_TYPE_F32, n_out, 4, 1, any, outputs.data());
        add_kernel_product(host.graph, *kernel, w, x, y, {slot_idxs, row_idxs, input_idxs}, any,
                           reinterpret_cast<char *>(scratch));
        REQUIRE(host.graph.compute().ok());

        const auto & reference = kernels::mmvq_q8_0_reference();
        const size_t row_bytes = ggml_row_size(GGML_TYPE_Q8_0, n_in);
        for (size_t i = 0; i < row_idxs.size(); ++i) {
            const auto              input_idx = static_cast<size_t>(is_shared ? 0 : row_idxs[i]);
            kernels::ArrangedInputs arranged(reference, n_in);
            reference.arrange(inputs.data() + input_idx * row_bytes, n_in, arranged.data());
            std::vector<float> wanted(n_out);
            reference.multiply(weights.data() + static_cast<size_t>(slot_idxs[i]) * n_out * row_bytes, n_in, n_out,
                               arranged.data(), wanted.data());
            const float * found = outputs.data() + row_idxs[i] * n_out;
            CHECK(std::vector<float>(found, found + n_out) == wanted);
        }
        CHECK(outputs[0] == -1.0F);
        CHECK(outputs[2 * n_out] == -1.0F);
    }
}
