#include "asplash/config/reader.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/config/values.h"

namespace asplash::config {
namespace {

const char* describe_kind(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::list:
      return "is a list";
    case Node::Kind::map:
      return "is a section with keys of its own";
    default:
      return "has no value";
  }
}

std::string seen(const Node& node) {
  const std::string text = shown(node.text);
  return node.quoted ? "(\"" + text + "\")" : "(" + text + ")";
}

/// Sources in the order in which they replace each other: the base of a file, the file, all overrides.
int64_t layer_of(Place place) {
  const bool is_override = place.line == 0;
  return is_override ? std::numeric_limits<int64_t>::max() : -int64_t{place.source};
}

/// "attention.alpha" of the entry `attention: {alpha: 1.5, ...}`.
std::string first_path(const Entry& entry) {
  std::string path = entry.key;
  const Node* node = &entry.value;
  while (node->kind == Node::Kind::map && !node->entries.empty()) {
    path += "." + node->entries.front().key;
    node = &node->entries.front().value;
  }
  return path;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

Reader::Reader(const Node& root, Problems& problems, Unused unused)
    : problems_(problems), unused_handling_(unused) {
  Section section;
  section.map = &root;
  section.place = {0, 1};
  open_.push_back(std::move(section));
}

std::string Reader::dotted(const char* key) const { return open_.back().prefix + key; }

void Reader::report(Place place, const std::string& dotted, const std::string& message) {
  problems_.add(place, dotted, message);
  open_.back().bad = true;
}

const Entry* Reader::take(const char* key) {
  Section& section = open_.back();
  if (std::find(section.keys.begin(), section.keys.end(), key) != section.keys.end()) {
    throw std::logic_error("config field described twice: " + dotted(key));
  }
  section.keys.emplace_back(key);
  const Entry* entry = section.map != nullptr ? section.map->find(key) : nullptr;
  if (entry != nullptr && entry->value.kind == Node::Kind::invalid) {
    section.bad = true;
    return nullptr;
  }
  return entry;
}

template <class Value, class Parse>
std::optional<Value> Reader::read_item(const Node& node, Place place, const std::string& dotted,
                                       const std::string& kind, const Range& range, Parse parse) {
  constexpr bool is_text = std::is_same_v<Value, std::string>;
  constexpr bool is_number = std::is_same_v<Value, int64_t> || std::is_same_v<Value, double>;
  const std::string expected = "; expected " + expectation(kind, range);
  if (node.kind == Node::Kind::invalid) {
    open_.back().bad = true;
    return std::nullopt;
  }
  if (node.kind != Node::Kind::scalar) {
    const char* hint = is_text && node.kind == Node::Kind::null ? " (\"\" for empty text)" : "";
    report(place, dotted, describe_kind(node.kind) + expected + hint);
    return std::nullopt;
  }
  if (!is_text && node.quoted) {
    report(place, dotted, "is text in quotes " + seen(node) + expected);
    return std::nullopt;
  }
  std::optional<Value> value = parse(node.text);
  if (!value) {
    report(place, dotted, "is not " + kind + " " + seen(node) + expected);
    return std::nullopt;
  }
  if constexpr (is_number) {
    if (!contains(range, static_cast<double>(*value))) {
      report(place, dotted, "is out of range " + seen(node) + expected);
      return std::nullopt;
    }
  }
  return value;
}

template <class Value, class Parse>
void Reader::read_scalar(const char* key, Value& value, const std::string& kind, const Range& range,
                         Parse parse) {
  known_.push_back(dotted(key));
  const Entry* entry = take(key);
  if (entry == nullptr) return;
  auto read = read_item<Value>(entry->value, entry->place, dotted(key), kind, range, parse);
  if (read) value = std::move(*read);
}

template <class Value, class Parse>
void Reader::read_list(const char* key, std::vector<Value>& values, const std::string& kind,
                       const Range& range, Parse parse) {
  known_.push_back(dotted(key));
  const Entry* entry = take(key);
  if (entry == nullptr) return;
  const Node& node = entry->value;
  if (node.kind != Node::Kind::list) {
    const bool one = node.kind == Node::Kind::scalar;
    const std::string what = one ? "is not a list " + seen(node) : describe_kind(node.kind);
    const std::string example = one ? " (for one: [" + shown(node.text) + "])" : " (for none: [])";
    report(entry->place, dotted(key), what + "; expected a list, each " + expectation(kind, range) + example);
    return;
  }
  std::vector<Value> items;
  for (size_t i = 0; i < node.items.size(); ++i) {
    const Node& item = node.items[i];
    // The parser places what is not there at the token that follows.
    const Place place = item.kind == Node::Kind::null ? entry->place : item.place;
    auto read = read_item<Value>(item, place, str(dotted(key), "[", i, "]"), kind, range, parse);
    if (read) items.push_back(std::move(*read));
  }
  if (items.size() == node.items.size()) values = std::move(items);
}

void Reader::field(const char* key, bool& value, const char*) {
  read_scalar(key, value, "true or false", {}, parse_bool);
}

void Reader::field(const char* key, int64_t& value, const char*, Range range) {
  read_scalar(key, value, "an integer", range, parse_int);
}

void Reader::field(const char* key, double& value, const char*, Range range) {
  read_scalar(key, value, "a number", range, parse_double);
}

void Reader::field(const char* key, std::string& value, const char*) {
  read_scalar(key, value, "text", {},
              [](const std::string& text) { return std::optional<std::string>(text); });
}

void Reader::field(const char* key, std::vector<double>& value, const char*, Range range) {
  read_list(key, value, "a number", range, parse_double);
}

void Reader::field(const char* key, std::vector<int64_t>& value, const char*, Range range) {
  read_list(key, value, "an integer", range, parse_int);
}

void Reader::field(const char* key, std::vector<std::string>& value, const char*) {
  read_list(key, value, "text", {}, [](const std::string& text) { return std::optional<std::string>(text); });
}

void Reader::choice_index(const char* key, int64_t& index, const std::vector<std::string>& names,
                          const char*) {
  known_.push_back(dotted(key));
  const Entry* entry = take(key);
  if (entry == nullptr) return;
  const std::string expected = "; expected one of " + join(names, ", ");
  const Node& node = entry->value;
  if (node.kind != Node::Kind::scalar) {
    report(entry->place, dotted(key), describe_kind(node.kind) + expected);
    return;
  }
  const auto found = std::find(names.begin(), names.end(), node.text);
  if (found != names.end()) {
    index = found - names.begin();
    return;
  }
  const std::string near = nearest(node.text, names);
  report(entry->place, dotted(key),
         "is none of the choices " + seen(node) + expected +
             (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

void Reader::begin_section(const char* key, const char*) {
  const Entry* entry = take(key);
  Section section;
  section.prefix = dotted(key) + ".";
  section.place = entry != nullptr ? entry->place : open_.back().place;
  if (entry != nullptr && entry->value.kind == Node::Kind::map) section.map = &entry->value;
  if (entry != nullptr && section.map == nullptr) {
    const Node& node = entry->value;
    const std::string what =
        node.kind == Node::Kind::scalar ? "is one value " + seen(node) : describe_kind(node.kind);
    report(entry->place, dotted(key), what + "; expected a section with keys of its own, or leave it out");
    section.bad = true;
  }
  open_.push_back(std::move(section));
}

void Reader::end_section() {
  close_section();
  const bool bad = open_.back().bad;
  open_.pop_back();
  open_.back().bad |= bad;
}

void Reader::check(bool ok, const char* key, const std::string& message) {
  if (ok) return;
  Section& section = open_.back();
  FailedCheck failed{section.place, dotted(key), message};
  // The key may lie in a section below ("data.context"): the deepest part of it that was written is named.
  const Node* node = section.map;
  std::string rest = key;
  while (node != nullptr && node->kind == Node::Kind::map) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const Entry* entry = node->find(rest.substr(0, dot));
    if (entry == nullptr) break;
    failed.place = entry->place;
    if (dot == rest.size()) break;
    node = &entry->value;
    rest.erase(0, dot + 1);
  }
  section.failed.push_back(std::move(failed));
}

void Reader::only_where(bool ok, const char* key, const char* decider, const char* needed) {
  Section& section = open_.back();
  if (ok || section.map == nullptr || unused_handling_ == Unused::allowed) return;
  const Entry* written = section.map->find(key);
  if (written == nullptr) return;
  const Entry* decided = section.map->find(decider);
  if (decided != nullptr && layer_of(decided->place) > layer_of(written->place)) return;
  section.failed.push_back(
      {written->place, dotted(key), str("is given, but not used: it needs ", decider, ": ", needed)});
}

void Reader::close_section() {
  Section& section = open_.back();
  if (!section.bad) {
    std::move(section.failed.begin(), section.failed.end(), std::back_inserter(failed_));
  }
  if (section.map == nullptr) return;
  for (const Entry& entry : section.map->entries) {
    if (std::find(section.keys.begin(), section.keys.end(), entry.key) != section.keys.end()) continue;
    unknown_.push_back({entry.place, entry.key, first_path(entry), section.prefix, section.keys});
  }
}

std::string Reader::advice(const Unknown& unknown) const {
  if (unknown.key == "<<") return "YAML merge keys are not supported; share values by base:";
  if (std::find(known_.begin(), known_.end(), unknown.prefix + unknown.key) != known_.end()) {
    return "unknown key with a dot; write one section inside the other";
  }
  const std::string near = nearest(unknown.key, unknown.siblings);
  if (!near.empty()) return "unknown key; did you mean '" + unknown.prefix + near + "'?";
  const std::string elsewhere = in_other_section(unknown);
  if (!elsewhere.empty()) return "unknown key; did you mean '" + elsewhere + "'?";
  if (unknown.siblings.empty()) return "unknown key; nothing can be set here";
  return "unknown key; known here: " + join(unknown.siblings, ", ");
}

/// The right name in the wrong section: "alpha" or "attention.alpha" for model.attention.alpha; or
/// "attention", which is a section, for model.attention.
std::string Reader::in_other_section(const Unknown& unknown) const {
  for (const std::string& known : known_) {
    if (known == unknown.path || ends_with(known, "." + unknown.path)) return known;
  }
  for (const std::string& known : known_) {
    const size_t section = known.find("." + unknown.key + ".");
    if (section != std::string::npos) return known.substr(0, section + 1 + unknown.key.size());
  }
  return "";
}

void Reader::finish(bool checks) {
  close_section();
  for (const Unknown& unknown : unknown_) {
    // With this many problems no one needs help with spelling.
    problems_.add(unknown.place, unknown.prefix + unknown.key, problems_.full() ? "" : advice(unknown));
  }
  if (!checks) return;
  for (const FailedCheck& failed : failed_) problems_.add(failed.place, failed.key, failed.message);
}

}  // namespace asplash::config
