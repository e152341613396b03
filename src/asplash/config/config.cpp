#include "asplash/config/config.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "asplash/base/files.h"
#include "asplash/base/text.h"
#include "asplash/config/problems.h"
#include "asplash/config/reader.h"
#include "asplash/config/tree.h"

namespace asplash::config {
namespace {

namespace fs = std::filesystem;

/// Read no further: what is longer than read_yaml() takes need not be read to its end.
constexpr size_t kMostConfigBytes = size_t{16} << 20;

/// What the files say, and whether all of them could be read.
struct Sources {
  Node tree;
  bool complete = true;
};

// Two names of one file are the same file.
std::string identity(const std::string& path) {
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(path, error);
  return error ? path : canonical.string();
}

/// Takes `base:` out of a file's tree. Nothing where there is none, or a bad one, which is reported.
std::optional<std::string> take_base(Node& file, const std::string& file_name, Place* place, bool* complete,
                                     Problems& problems) {
  const auto entry =
      std::find_if(file.entries.begin(), file.entries.end(), [](const Entry& e) { return e.key == "base"; });
  if (entry == file.entries.end()) return std::nullopt;
  const Node value = std::move(entry->value);
  *place = entry->place;
  file.entries.erase(entry);
  constexpr size_t kLongestName = 4096;
  // Messages repeat the name: control characters, which YAML can escape, are no part of it.
  const bool is_name = !value.text.empty() && shown(value.text, kLongestName) == value.text;
  if (value.kind != Node::Kind::scalar || !is_name) {
    if (value.kind != Node::Kind::invalid) {
      problems.add(*place, "base", "names no file; expected a path, relative to this file");
    }
    *complete = false;
    return std::nullopt;
  }
  return (fs::path(file_name).parent_path() / value.text).lexically_normal().string();
}

Node as_map(std::optional<Node> node, int source, bool* complete, Problems& problems) {
  Node map;
  map.kind = Node::Kind::map;
  map.place = {source, 1};
  if (!node) {
    *complete = false;
    return map;
  }
  if (node->kind == Node::Kind::map) return std::move(*node);
  if (node->kind == Node::Kind::null) return map;  // an empty file: nothing but defaults
  if (node->kind != Node::Kind::invalid) {
    problems.add(node->place, "", "holds a single value or a list; expected keys and values (key: value)");
  }
  *complete = false;
  return map;
}

/// Reads `text` and the chain of files below it.
Sources read_chain(std::string text, std::string name, Problems& problems) {
  Sources result;
  std::vector<Node> layers;  // the file itself first, its base next, ...
  std::vector<std::string> names;
  std::vector<std::string> identities;
  while (true) {
    const int source = problems.add_file(name);
    names.push_back(name);
    identities.push_back(identity(name));
    layers.push_back(as_map(read_yaml(text, source, true, problems), source, &result.complete, problems));
    Place place;
    const auto base = take_base(layers.back(), name, &place, &result.complete, problems);
    if (!base) break;
    const std::string chain = join(names, " -> ") + " -> " + *base;
    if (std::find(identities.begin(), identities.end(), identity(*base)) != identities.end()) {
      problems.add(place, "base", "goes round in a circle (" + chain + ")");
      result.complete = false;
      break;
    }
    try {
      text = read_file(*base, kMostConfigBytes);
    } catch (const Error& e) {
      problems.add(place, "base", str(e.what(), " (", chain, ")"));
      result.complete = false;
      break;
    }
    name = *base;
  }
  result.tree = std::move(layers.back());
  for (size_t i = layers.size() - 1; i-- > 0;) overlay(result.tree, std::move(layers[i]));
  return result;
}

bool is_dotted_name(const std::string& key) {
  const bool safe = std::all_of(key.begin(), key.end(), [](unsigned char c) { return c > ' ' && c != 0x7f; });
  const auto levels = std::count(key.begin(), key.end(), '.');  // the tree is walked recursively
  return safe && levels < 32 && !key.empty() && key.front() != '.' && key.back() != '.' &&
         key.find("..") == std::string::npos;
}

// "a.b" and a value as the tree {a: {b: value}}, so that an override is one more layer.
Node nested(const std::string& key, Place place, Node value) {
  const size_t dot = key.find('.');
  Node map;
  map.kind = Node::Kind::map;
  map.place = place;
  Entry entry;
  entry.key = key.substr(0, dot);
  entry.place = place;
  entry.value =
      dot == std::string::npos ? std::move(value) : nested(key.substr(dot + 1), place, std::move(value));
  map.entries.push_back(std::move(entry));
  return map;
}

/// The first part of `key` that the tree holds as something other than a section, with its dotted name.
std::optional<std::string> blocking_value(const Node& tree, const std::string& key) {
  const Node* node = &tree;
  size_t begin = 0;
  for (size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
    const Entry* entry = node->find(key.substr(begin, dot - begin));
    if (entry == nullptr) return std::nullopt;
    if (entry->value.kind != Node::Kind::map) return key.substr(0, dot);
    node = &entry->value;
    begin = dot + 1;
  }
  return std::nullopt;
}

/// What stands behind the "=": YAML, or empty text, which a file would have to put in quotes.
std::optional<Node> override_value(const std::string& text, int source, Problems& problems) {
  if (!text.empty()) return read_yaml(text, source, false, problems);
  Node empty;
  empty.kind = Node::Kind::scalar;
  empty.place = {source, 0};
  return empty;
}

void apply_override(const std::string& text, Node& tree, bool* complete, Problems& problems) {
  const size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  const int source = problems.add_override(key);
  const Place place{source, 0};
  const auto refuse = [&](const std::string& message) {
    problems.add(place, "", message);
    *complete = false;
  };
  if (equals == std::string::npos) return refuse("has no value; expected key=value, as in optim.lr=3e-4");
  if (!is_dotted_name(key)) return refuse("is not a key; expected names joined by dots, as in optim.lr=3e-4");
  if (key == "base") return refuse("can only be written in a file");
  std::optional<Node> value = override_value(text.substr(equals + 1), source, problems);
  if (!value) {
    *complete = false;
    return;
  }
  if (const auto blocked = blocking_value(tree, key)) {
    return refuse(*blocked + " has a value of its own and no keys below it");
  }
  overlay(tree, nested(key, place, std::move(*value)));
}

void throw_if_any(const Problems& problems) {
  if (!problems.empty()) throw ConfigError(problems.text());
}

}  // namespace

void load(const std::string& path, const std::vector<std::string>& overrides, const Describe& describe) {
  std::string text;
  try {
    text = read_file(path, kMostConfigBytes);
  } catch (const Error& e) {
    throw ConfigError(e.what());
  }
  load_text(text, path, overrides, describe);
}

void load_text(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
               const Describe& describe, Unused unused) {
  Problems problems;
  Sources sources = read_chain(text, name, problems);
  for (const std::string& override_text : overrides) {
    apply_override(override_text, sources.tree, &sources.complete, problems);
  }
  // Values are checked even where a file is missing or broken; rules between values then mean nothing.
  Reader reader(sources.tree, problems, unused);
  describe(reader);
  reader.finish(sources.complete);
  throw_if_any(problems);
}

}  // namespace asplash::config
