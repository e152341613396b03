#include "asplash/base/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace asplash {
namespace {

std::string with_unit(const std::string& number, const std::string& unit) {
  return unit.empty() ? number : number + " " + unit;
}

// "12.345" -> "12.3", "1.2" -> "1.20": three digits in all.
std::string three_digits(double value) {
  const double magnitude = std::abs(value);
  return fixed(value, magnitude >= 99.95 ? 0 : magnitude >= 9.995 ? 1 : 2);
}

// Divides by `base` until what is left prints below it.
size_t scale_down(double* value, double base, double rounded_up_from, size_t units) {
  size_t unit = 0;
  while (std::abs(*value) >= rounded_up_from && unit + 1 < units) {
    *value /= base;
    ++unit;
  }
  return unit;
}

// Optimal string alignment distance: insert, delete, replace, or swap two neighbours.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

bool contains(const std::string& whole, const std::string& part) {
  return part.size() >= 3 && whole.find(part) != std::string::npos;
}

size_t code_points(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

// Bytes of the valid UTF-8 character that begins at text[at], 0 where none does.
size_t character_at(std::string_view text, size_t at) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                        : (lead & 0xf0) == 0xe0        ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
  if (length == 0 || text.size() - at < length) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte(at + k) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and values over U+10FFFF show in the second byte.
  const unsigned second = byte(at + 1);
  const bool ill_formed = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                          (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return ill_formed ? 0 : length;
}

// A number as tables hold them: sign, digits with separators, exponent, then "%" or a short unit.
bool looks_numeric(const std::string& cell) {
  size_t i = 0;
  const auto digit_at = [&cell](size_t at) {
    return at < cell.size() && std::isdigit(static_cast<unsigned char>(cell[at])) != 0;
  };
  if (i < cell.size() && (cell[i] == '-' || cell[i] == '+')) ++i;
  if (!digit_at(i) && !(i < cell.size() && cell[i] == '.' && digit_at(i + 1))) return false;
  while (digit_at(i) || (i < cell.size() && (cell[i] == '.' || cell[i] == ',' || cell[i] == ':'))) ++i;
  if (i < cell.size() && (cell[i] == 'e' || cell[i] == 'E')) {
    ++i;
    if (i < cell.size() && (cell[i] == '-' || cell[i] == '+')) ++i;
    while (digit_at(i)) ++i;
  }
  if (i < cell.size() && cell[i] == ' ') ++i;
  const std::string unit = cell.substr(i);
  return unit.size() <= 8 && unit.find(' ') == std::string::npos && !digit_at(i);
}

bool column_is_numeric(const std::vector<std::vector<std::string>>& rows, size_t column) {
  bool any = false;
  for (size_t r = 1; r < rows.size(); ++r) {
    if (column >= rows[r].size() || rows[r][column].empty() || rows[r][column] == "-") continue;
    if (!looks_numeric(rows[r][column])) return false;
    any = true;
  }
  return any;
}

}  // namespace

std::string human_count(double value) {
  if (!std::isfinite(value)) return fixed(value, 0);
  if (std::abs(value) < 999.5) {
    if (value == std::floor(value)) return fixed(value, 0);
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.3g", value);
    return text.data();
  }
  constexpr std::array<const char*, 8> kUnits = {"", "k", "M", "G", "T", "P", "E", "Z"};
  const size_t unit = scale_down(&value, 1000, 999.5, kUnits.size());
  return with_unit(three_digits(value), kUnits[unit]);
}

std::string human_bytes(double bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  const size_t unit = scale_down(&bytes, 1024, 1023.95, kUnits.size());
  return with_unit(fixed(bytes, unit == 0 ? 0 : 1), kUnits[unit]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 9.95) return fixed(std::max(seconds, 0.0), 1) + " s";
  if (seconds < 59.5) return fixed(seconds, 0) + " s";
  const auto total = static_cast<int64_t>(std::llround(std::min(seconds, 1e15)));
  std::array<char, 48> text{};
  const int64_t minutes = total / 60 % 60;
  if (total < 3600) {
    std::snprintf(text.data(), text.size(), "%d:%02d min", static_cast<int>(minutes),
                  static_cast<int>(total % 60));
  } else {
    std::snprintf(text.data(), text.size(), "%lld:%02d:%02d h", static_cast<long long>(total / 3600),
                  static_cast<int>(minutes), static_cast<int>(total % 60));
  }
  return text.data();
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  const size_t sign = value < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > sign + 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string fixed(double value, int digits) {
  const int length = std::snprintf(nullptr, 0, "%.*f", digits, value);
  std::string text(static_cast<size_t>(length) + 1, '\0');
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  text.pop_back();
  return text;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < std::max(word.size(), candidate.size())) {
      best = candidate;
      best_distance = distance;
    }
  }
  if (!best.empty()) return best;
  for (const std::string& candidate : candidates) {
    if (!contains(candidate, word) && !contains(word, candidate)) continue;
    if (best.empty() || candidate.size() < best.size()) best = candidate;
  }
  return best;
}

std::string join(const std::vector<std::string>& parts, const std::string& separator) {
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) joined += separator;
    joined += parts[i];
  }
  return joined;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  std::vector<size_t> widths(columns, 0);
  std::vector<bool> numeric(columns);
  for (size_t c = 0; c < columns; ++c) {
    numeric[c] = column_is_numeric(rows, c);
    for (const auto& row : rows) {
      if (c < row.size()) widths[c] = std::max(widths[c], code_points(row[c]));
    }
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows[r].size(); ++c) {
      const std::string& cell = rows[r][c];
      const std::string padding(widths[c] - code_points(cell), ' ');
      if (c > 0) line += "  ";
      line += numeric[c] ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0) {
      std::vector<std::string> rules;
      for (const size_t width : widths) rules.emplace_back(width, '-');
      text += join(rules, "  ") + "\n";
    }
  }
  return text;
}

bool is_valid_utf8(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = character_at(bytes, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string shown(std::string_view text, size_t longest) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    if (result.size() >= longest) return result + "...";
    const auto byte = static_cast<unsigned char>(text[at]);
    const size_t length = character_at(text, at);
    if (byte == '\n') {
      result += "\\n";
    } else if (length == 0 || byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
      result += escape.data();
    } else {
      result += text.substr(at, length);
    }
    at += std::max<size_t>(length, 1);
  }
  return result;
}

std::string json_reason(const std::exception& error) {
  constexpr size_t kLongest = 240;
  std::string_view message = error.what();
  const size_t end = message.find("] ");
  // "[json.exception.parse_error.101] " helps nobody.
  if (message.rfind("[json.", 0) == 0 && end != std::string_view::npos) message.remove_prefix(end + 2);
  return shown(message, kLongest);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

}  // namespace asplash
