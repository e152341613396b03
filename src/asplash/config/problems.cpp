#include "asplash/config/problems.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::config {
namespace {

constexpr size_t kMostProblems = 100;

}  // namespace

int Problems::add_file(const std::string& name) {
  sources_.push_back({name, ""});
  return static_cast<int>(sources_.size()) - 1;
}

int Problems::add_override(const std::string& key) {
  sources_.push_back({"--set " + shown(key), key});
  return static_cast<int>(sources_.size()) - 1;
}

void Problems::add(Place place, const std::string& key, const std::string& message) {
  if (full()) {
    ++left_out_;
    return;
  }
  const bool key_is_named = key.empty() || key == sources_[static_cast<size_t>(place.source)].override_key;
  problems_.push_back({place, name(place) + ": " + (key_is_named ? "" : shown(key) + ": ") + message});
}

bool Problems::full() const { return problems_.size() >= kMostProblems; }

std::string Problems::name(Place place) const {
  const Source& source = sources_[static_cast<size_t>(place.source)];
  return place.line > 0 ? str(source.name, ":", place.line) : source.name;
}

std::string Problems::text() const {
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    return std::tie(a.place.source, a.place.line) < std::tie(b.place.source, b.place.line);
  });
  std::string lines;
  for (const Problem& problem : sorted) lines += (lines.empty() ? "" : "\n") + problem.text;
  if (left_out_ > 0) lines += str("\n... and ", left_out_, " more problems");
  return lines;
}

}  // namespace asplash::config
