#pragma once

#include <optional>
#include <string>
#include <vector>

#include "asplash/config/problems.h"

namespace asplash::config {

struct Entry;

/// A YAML value that knows where it was written.
struct Node {
  enum class Kind {
    null,  ///< empty, ~ or null
    scalar,
    list,
    map,
    invalid,  ///< already reported: nothing more is to be said about it
  };
  Kind kind = Kind::null;
  Place place;
  std::string text;            ///< scalar
  bool quoted = false;         ///< scalar in quotes or a block: text, whatever it looks like
  std::vector<Node> items;     ///< list
  std::vector<Entry> entries;  ///< map, keys unique

  const Entry* find(const std::string& key) const;
};

struct Entry {
  std::string key;
  Place place;  ///< of the key
  Node value;
};

/// Reads one YAML document; an empty one is an empty node of kind null. Adds what is wrong (syntax, duplicate
/// keys, anchors, aliases, tags, several documents) to `problems`; nothing comes back where the syntax is
/// broken. Anchors and aliases are refused on purpose: `base:` is the way to share, and with them a small
/// file could unfold into a huge one. `source` as in Place; `with_lines` is false for overrides.
std::optional<Node> read_yaml(const std::string& text, int source, bool with_lines, Problems& problems);

/// Puts `over` on `under`: maps are merged key by key, anything else replaces what was there.
void overlay(Node& under, Node over);

}  // namespace asplash::config
