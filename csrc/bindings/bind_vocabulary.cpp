// Tokenises, and says so where it cannot: llama.cpp does it without catching what its own tables throw, so that the
// first text with a byte which a damaged vocabulary lacks would end the process. Of its C interface only this function
// is needed, so its header is not.
#include "bindings/bindings.h"
#include "device/abort_guard.h"
#include "store/store_error.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <pybind11/stl.h>

struct llama_vocab;

extern "C" int32_t llama_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, int32_t * tokens,
                                  int32_t n_tokens_max, bool add_special, bool parse_special);
extern "C" int32_t llama_vocab_n_tokens(const llama_vocab * vocab);

namespace py = pybind11;

namespace hobbit {

namespace {

// What llama.cpp finds, which need not be tokens.
std::vector<int32_t> find_tokens(const llama_vocab * vocab, const std::string & text, bool add_special,
                                 bool parse_special) {
    if (text.size() > std::numeric_limits<int32_t>::max()) {
        throw StoreError("the text is longer than 2 GiB");
    }
    std::vector<int32_t> tokens(text.size() + 16); // a byte a token, and those at both ends; most texts take less
    const auto           find = [&] {
        return llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                              static_cast<int32_t>(tokens.size()), add_special, parse_special);
    };
    const AbortGuard guard;
    int32_t          n_found = 0;
    try {
        n_found = find();
        if (n_found < 0 && n_found > std::numeric_limits<int32_t>::min()) {
            tokens.resize(static_cast<size_t>(-n_found));
            n_found = find();
        }
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        throw StoreError(std::string("the vocabulary cannot express it (") + error.what() + ")");
    }
    if (n_found < 0) {
        throw StoreError("the text has more tokens than llama.cpp can count");
    }
    tokens.resize(static_cast<size_t>(n_found));
    return tokens;
}

std::vector<int32_t> tokenize(uintptr_t address, const std::string & text, bool add_special, bool parse_special) {
    const auto *               vocab    = reinterpret_cast<const llama_vocab *>(address);
    const int32_t              n_tokens = llama_vocab_n_tokens(vocab);
    const std::vector<int32_t> tokens   = find_tokens(vocab, text, add_special, parse_special);
    for (const int32_t token : tokens) {
        if (token < 0 || token >= n_tokens) {
            throw StoreError("the vocabulary has no token for some letters (" + std::to_string(token) + " of " +
                             std::to_string(n_tokens) + ")");
        }
    }
    return tokens;
}

} // namespace

void bind_vocabulary(py::module_ & m) {
    m.def("tokenize", &tokenize, py::arg("vocab_address"), py::arg("text"), py::arg("add_special"),
          py::arg("parse_special"), py::call_guard<py::gil_scoped_release>(),
          "Tokens of a text, by the llama_vocab at an address; StoreError if it has none for a part of the text.");
}

} // namespace hobbit
