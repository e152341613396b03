#include "asplash/text/json_escapes.h"

#include <charconv>

namespace asplash::text {
namespace {

constexpr size_t kEscapeBytes = 6;  // "\ud83d"

/// The number that an escape "\uXXXX" at this place stands for; -1: there is none.
int escaped_number(std::string_view json, size_t at) {
  if (at + kEscapeBytes > json.size() || json[at] != '\\' || json[at + 1] != 'u') return -1;
  const char* begin = json.data() + at + 2;
  const char* end = json.data() + at + kEscapeBytes;
  unsigned number = 0;
  const auto result = std::from_chars(begin, end, number, 16);
  return result.ec == std::errc() && result.ptr == end ? static_cast<int>(number) : -1;
}

bool is_high(int number) { return number >= 0xD800 && number < 0xDC00; }
bool is_low(int number) { return number >= 0xDC00 && number < 0xE000; }

}  // namespace

size_t find_lone_surrogate(std::string_view json, size_t from) {
  for (size_t at = json.find('\\', from); at != std::string_view::npos; at = json.find('\\', at)) {
    const int number = escaped_number(json, at);
    if (number < 0) {
      at += 2;  // the escaped character may be a backslash itself
    } else if (is_high(number) && is_low(escaped_number(json, at + kEscapeBytes))) {
      at += 2 * kEscapeBytes;
    } else if (is_high(number) || is_low(number)) {
      return at;
    } else {
      at += kEscapeBytes;
    }
  }
  return std::string_view::npos;
}

int64_t replace_lone_surrogates(std::string& json) {
  int64_t count = 0;
  for (size_t at = find_lone_surrogate(json); at != std::string::npos;
       at = find_lone_surrogate(json, at + kEscapeBytes)) {
    json.replace(at, kEscapeBytes, "\\ufffd");
    ++count;
  }
  return count;
}

}  // namespace asplash::text
