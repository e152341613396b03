#include "asplash/text/line_sample.h"

#include <algorithm>
#include <array>
#include <utility>

#include "asplash/text/random_keys.h"

namespace asplash::text {
namespace {

constexpr size_t kMaxLineBytes = 4096;

using std::string_view_literals::operator""sv;
constexpr std::array<std::string_view, 5> kSeparators{"\n"sv, "\t"sv, "\0"sv, "\xE2\x96\x81"sv,
                                                      "\xE2\x96\x85"sv};

/// Where the line that begins at `text` ends, and where the next one begins.
std::pair<size_t, size_t> line_end(std::string_view text) {
  for (size_t at = text.find_first_of("\n\t\0\xE2"sv); at != std::string_view::npos;
       at = text.find_first_of("\n\t\0\xE2"sv, at + 1)) {
    for (const std::string_view separator : kSeparators) {
      if (text.compare(at, separator.size(), separator) == 0) return {at, at + separator.size()};
    }
  }
  return {text.size(), text.size()};
}

/// Where to cut a line that is too long: before its last space, else between two characters.
size_t cut_of(std::string_view line) {
  const size_t space = line.substr(0, kMaxLineBytes).rfind(' ');
  if (space != std::string_view::npos && space > 0) return space;
  size_t cut = kMaxLineBytes;
  while (cut > 1 && (static_cast<unsigned char>(line[cut]) & 0xC0) == 0x80) --cut;
  return cut;
}

}  // namespace

LineSample::LineSample(int64_t limit_bytes, uint64_t seed) : limit_(limit_bytes), seed_(seed) {}

void LineSample::add_document(std::string_view text) {
  while (!text.empty()) {
    const auto [end, next] = line_end(text);
    std::string_view line = text.substr(0, end);
    while (line.size() > kMaxLineBytes) {
      const size_t cut = cut_of(line);
      add_line(line.substr(0, cut));
      line.remove_prefix(cut);
    }
    add_line(line);
    text.remove_prefix(next);
  }
}

void LineSample::add_line(std::string_view line) {
  if (line.empty()) return;
  const uint64_t number = next_number_++;
  const uint64_t key = random_key(seed_, number);
  const auto bytes = static_cast<int64_t>(line.size());
  // Once lines were dropped, one with a larger key than all that are kept would be dropped at once.
  if (bytes_ + bytes > limit_ && !kept_.empty() && key > kept_.front().key) return;
  kept_.push_back({key, number, std::string(line)});
  std::push_heap(kept_.begin(), kept_.end());
  bytes_ += bytes;
  while (bytes_ > limit_ && kept_.size() > 1) {
    std::pop_heap(kept_.begin(), kept_.end());
    bytes_ -= static_cast<int64_t>(kept_.back().text.size());
    kept_.pop_back();
  }
}

std::vector<std::string> LineSample::take() {
  std::sort(kept_.begin(), kept_.end(), [](const Line& a, const Line& b) { return a.number < b.number; });
  std::vector<std::string> lines;
  lines.reserve(kept_.size());
  for (Line& line : kept_) lines.push_back(std::move(line.text));
  kept_.clear();
  bytes_ = 0;
  return lines;
}

}  // namespace asplash::text
