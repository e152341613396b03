#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace asplash::text {

/// JSON writes characters beyond U+FFFF as two escapes, a surrogate pair: "\ud83d\ude00". Half of a pair
/// ("\ud83d" alone) stands for no character; programs that cut text between the halves leave such escapes.

/// Where the first escape of half a pair begins in JSON text; npos: there is none.
size_t find_lone_surrogate(std::string_view json, size_t from = 0);

/// Makes each escape of half a pair one of U+FFFD; returns how many there were.
int64_t replace_lone_surrogates(std::string& json);

}  // namespace asplash::text
