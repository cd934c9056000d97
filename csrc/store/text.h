// Names in messages and suffixes of names, as the checks of a file's header need them.
#pragma once

#include <string>
#include <string_view>

namespace hobbit {

inline std::string quoted(const std::string & path) { return "'" + path + "'"; }

inline bool ends_with(std::string_view text, std::string_view suffix) {
    return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

} // namespace hobbit
