#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "asplash/config/fields.h"

/// Single values as YAML text. Numbers follow YAML 1.2's core schema in decimal: no hexadecimal, octal or
/// leading zeros, no underscores, no yes/no.
namespace asplash::config {

std::optional<bool> parse_bool(const std::string& text);
/// Digits with a sign, or a decimal number that is integral and at most 2^53 ("1e6"). Nothing where it does
/// not fit.
std::optional<int64_t> parse_int(const std::string& text);
/// Finite numbers only: .inf and .nan are nothing, and so is what a double cannot hold ("1e999").
std::optional<double> parse_double(const std::string& text);

/// The shortest text that reads back to the same double.
std::string print_double(double value);
/// Plain where every YAML reader sees text, in double quotes otherwise. Throws Error if it is not UTF-8.
std::string print_string(const std::string& value);

bool contains(const Range& range, double value);
/// "at least 1", "greater than 0 and at most 1", "between 0 and 1"; empty for any().
std::string describe_range(const Range& range);
/// `kind` with its range, for messages: "an integer, at least 1".
std::string expectation(const std::string& kind, const Range& range);

}  // namespace asplash::config
