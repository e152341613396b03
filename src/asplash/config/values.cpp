#include "asplash/config/values.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/config/problems.h"

namespace asplash::config {
namespace {

constexpr double kLargestExactInteger = 9007199254740992.0;  // 2^53

bool is_digit(char c) { return c >= '0' && c <= '9'; }

size_t skip_digits(const std::string& text, size_t at) {
  while (at < text.size() && is_digit(text[at])) ++at;
  return at;
}

// [-+]? ( digits ( . digits? )? | . digits ) ( [eE] [-+]? digits )?, no needless leading zero.
bool is_decimal(const std::string& text) {
  size_t at = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const size_t whole_end = skip_digits(text, at);
  const size_t whole = whole_end - at;
  if (whole > 1 && text[at] == '0') return false;
  at = whole_end;
  if (at < text.size() && text[at] == '.') {
    const size_t end = skip_digits(text, at + 1);
    if (whole == 0 && end == at + 1) return false;
    at = end;
  } else if (whole == 0) {
    return false;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    const size_t end = skip_digits(text, at);
    if (end == at) return false;
    at = end;
  }
  return at == text.size();
}

// from_chars knows no plus sign.
const char* number_begin(const std::string& text) { return text.data() + (text[0] == '+' ? 1 : 0); }

bool is_plain_text(const std::string& text) {
  if (text.empty() ||
      !(std::isalpha(static_cast<unsigned char>(text[0])) != 0 || text[0] == '/' || text[0] == '_')) {
    return false;
  }
  const bool safe = std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '/');
  });
  if (!safe) return false;
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr std::array<const char*, 9> kReserved = {"null", "true", "false", "yes", "no",
                                                    "on",   "off",  "y",     "n"};
  return std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end();
}

}  // namespace

std::optional<bool> parse_bool(const std::string& text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::optional<int64_t> parse_int(const std::string& text) {
  if (!is_decimal(text)) return std::nullopt;
  const char* begin = number_begin(text);
  const char* end = text.data() + text.size();
  int64_t value = 0;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec == std::errc() && result.ptr == end) return value;
  const std::optional<double> number = parse_double(text);
  const bool has_fraction_or_exponent = text.find_first_of(".eE") != std::string::npos;
  if (!has_fraction_or_exponent || !number || *number != std::floor(*number) ||
      std::abs(*number) > kLargestExactInteger) {
    return std::nullopt;
  }
  return static_cast<int64_t>(*number);
}

std::optional<double> parse_double(const std::string& text) {
  if (!is_decimal(text)) return std::nullopt;
  const char* end = text.data() + text.size();
  double value = 0;
  const auto result = std::from_chars(number_begin(text), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::string print_double(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::array<char, 32> buffer{};
  for (int digits = 15; digits <= 17; ++digits) {
    const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                      std::chars_format::general, digits);
    std::string text(buffer.data(), result.ptr);
    // YAML 1.1 readers (PyYAML) take 1e-05 for text; 1.0e-05 is a number to all.
    const size_t exponent = text.find('e');
    if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
    if (digits == 17 || parse_double(text) == value) return text;
  }
  return "";
}

std::string print_string(const std::string& value) {
  if (is_plain_text(value)) return value;
  if (!is_valid_utf8(value)) fail("cannot write '", shown(value), "' as YAML: it is not valid UTF-8");
  std::string text = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (c == '\n') {
      text += "\\n";
    } else if (c == '\t') {
      text += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02X", byte);
      text += escape.data();
    } else {
      text += c;
    }
  }
  return text + "\"";
}

bool contains(const Range& range, double value) {
  return (range.low_open ? value > range.low : value >= range.low) &&
         (range.high_open ? value < range.high : value <= range.high);
}

std::string describe_range(const Range& range) {
  const bool has_low = std::isfinite(range.low);
  const bool has_high = std::isfinite(range.high);
  if (has_low && has_high && !range.low_open && !range.high_open) {
    return "between " + print_double(range.low) + " and " + print_double(range.high);
  }
  std::vector<std::string> parts;
  if (has_low) parts.push_back((range.low_open ? "greater than " : "at least ") + print_double(range.low));
  if (has_high) parts.push_back((range.high_open ? "less than " : "at most ") + print_double(range.high));
  return join(parts, " and ");
}

std::string expectation(const std::string& kind, const Range& range) {
  const std::string limits = describe_range(range);
  return limits.empty() ? kind : kind + ", " + limits;
}

}  // namespace asplash::config
