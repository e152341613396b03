#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace asplash::text {

/// Bytes of the valid UTF-8 character that begins at text[at] (RFC 3629: no surrogates, no overlong forms, at
/// most U+10FFFF); 0 where none does.
size_t utf8_length(std::string_view text, size_t at);

/// Position of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

/// Puts U+FFFD in the place of each maximal ill-formed sequence (Unicode 15, section 3.9, the practice that
/// the WHATWG encoding standard requires). Returns how many there were.
int64_t replace_invalid_utf8(std::string& text);

}  // namespace asplash::text
