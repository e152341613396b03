#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

/// Small helpers for messages and tables.
namespace asplash {

/// Three digits with k, M, G, T, P (powers of 1000): 1234567 -> "1.23 M"; 950 -> "950"; 0.5 -> "0.5".
std::string human_count(double value);
/// Bytes with binary units: 1536 -> "1.5 KiB"; 12 -> "12 B".
std::string human_bytes(double bytes);
/// Seconds as "1.5 s", "12 s", "3:05 min" or "2:03:10 h".
std::string human_duration(double seconds);
/// A number with thousands separated: 1234567 -> "1,234,567".
std::string grouped(int64_t value);
/// printf with one double: fixed("%.2f", x).
std::string fixed(double value, int digits);

/// The candidate closest to `word` by edit distance (a swap of neighbours counts one), or "" where none is
/// near (distance over a third of the word's length, at least 2, or no letter in common). Where none is, the
/// shortest candidate that contains the word, or is contained in it, with three letters or more.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

/// Joins with a separator.
std::string join(const std::vector<std::string>& parts, const std::string& separator);

/// A plain-text table: the first row is the header, ruled off by dashes; columns whose cells are numbers
/// (with a unit or "%", "-" for none) are right-aligned. Every line ends with a line break; rows may be
/// short.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// True if the bytes are valid UTF-8.
bool is_valid_utf8(const std::string& bytes);

/// Foreign text as one-line messages show it: control characters and bytes that are not UTF-8 escaped (\n,
/// \x1b), cut with "..." after `longest` bytes.
std::string shown(std::string_view text, size_t longest = 60);
/// What the JSON library says about broken text, as a message shows it: without its exception's number, and
/// with what it quotes of the text escaped and cut.
std::string json_reason(const std::exception& error);

/// The time now, UTC: "2026-11-24T04:17:19Z".
std::string utc_now();

}  // namespace asplash
