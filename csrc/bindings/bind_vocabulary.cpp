// Whether a vocabulary can be used. llama.cpp tokenises without catching what its own tables throw, or asserting before
// a text comes; of its C interface only this function is needed, so its header is not.
#include "bindings/bindings.h"
#include "store/store_error.h"

#include <cstdint>
#include <string>
#include <vector>

struct llama_vocab;

extern "C" int32_t llama_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, int32_t * tokens,
                                  int32_t n_tokens_max, bool add_special, bool parse_special);
extern "C" int32_t llama_vocab_n_tokens(const llama_vocab * vocab);

namespace py = pybind11;

namespace hobbit {

namespace {

void check_vocabulary(uintptr_t address) {
    const auto * vocab    = reinterpret_cast<const llama_vocab *>(address);
    const int    n_tokens = llama_vocab_n_tokens(vocab);
    std::string  text     = "\n";
    for (char c = ' '; c <= '~'; ++c) {
        text += c;
    }
    std::vector<int32_t> tokens(4 * text.size() + 16);
    int32_t              n_found = 0;
    try {
        n_found = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                 static_cast<int32_t>(tokens.size()), /*add_special =*/true, /*parse_special =*/true);
    } catch (const std::exception & error) {
        throw StoreError(std::string("its vocabulary cannot express plain text (") + error.what() + ")");
    }
    for (int32_t i = 0; i < n_found; ++i) {
        const int32_t token = tokens[static_cast<size_t>(i)];
        if (token < 0 || token >= n_tokens) {
            throw StoreError("its vocabulary has no token for some letters (" + std::to_string(token) + " of " +
                             std::to_string(n_tokens) + ")");
        }
    }
}

} // namespace

void bind_vocabulary(py::module_ & m) {
    m.def("check_vocabulary", &check_vocabulary, py::arg("vocab_address"),
          "StoreError unless the llama_vocab has a token for each of ASCII's letters. Call it within an AbortGuard.");
}

} // namespace hobbit
