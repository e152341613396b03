#include "asplash/config/tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::config {
namespace {

constexpr size_t kMostBytes = size_t{1} << 20;
// The parser recurses once per level; real configurations have three or four.
constexpr size_t kMostLevels = 32;

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(int source, bool with_lines, Problems& problems)
      : source_(source), with_lines_(with_lines), problems_(problems) {}

  Node take() { return std::move(root_); }
  Place place(const YAML::Mark& mark) const {
    return {source_, with_lines_ ? std::max(mark.line, 0) + 1 : 0};
  }

  /// Adds what the parser says about broken syntax.
  void report(const YAML::Exception& e) {
    // An open quote is noticed at the end of the file, where it is of no use to anyone.
    if (e.msg == YAML::ErrorMsg::EOF_IN_SCALAR && !open_.empty() && open_.back().has_key) {
      problems_.add(open_.back().key_place, dotted(), "not valid YAML: a quote is opened and not closed");
      return;
    }
    const std::string column = e.mark.column >= 0 ? str(" (column ", e.mark.column + 1, ")") : "";
    const char* hint = with_lines_ ? "" : "; put text with special characters in quotes";
    problems_.add(place(e.mark), "", "not valid YAML: " + e.msg + column + hint);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    // Also what cannot be read goes on as one document after the other, some of them without end (",").
    if (documents_++ == 1) {
      throw YAML::ParserException(mark, "a second document, or text after the end of the first");
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    attach(checked(make(Node::Kind::null, mark), anchor, ""));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    add_problem(place(mark),
                "YAML aliases (*name) are not supported; write the value out, or share it by base:");
    attach(make(Node::Kind::invalid, mark));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node = make(Node::Kind::scalar, mark);
    node.text = value;
    node.quoted = tag == "!";
    attach(checked(std::move(node), anchor, tag));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, checked(make(Node::Kind::list, mark), anchor, tag));
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, checked(make(Node::Kind::map, mark), anchor, tag));
  }
  void OnMapEnd() override { close(); }

 private:
  /// A list or map whose end has not come yet.
  struct Open {
    Node node;
    std::string key;
    Place key_place;
    bool has_key = false;
    bool drop_value = false;
    std::unordered_map<std::string, Place> seen;
  };

  Node make(Node::Kind kind, const YAML::Mark& mark) const {
    Node node;
    node.kind = kind;
    node.place = place(mark);
    return node;
  }

  Node checked(Node node, YAML::anchor_t anchor, const std::string& tag) {
    if (anchor != YAML::NullAnchor) {
      add_problem(node.place,
                  "YAML anchors (&name) are not supported; write the value out, or share it by base:");
    }
    // "!" and "?" are the parser's own words for quoted and plain.
    if (!tag.empty() && tag != "!" && tag != "?") {
      add_problem(node.place, "YAML tags (" + shown(tag) + ") are not supported; remove it");
    }
    return node;
  }

  void open(const YAML::Mark& mark, Node node) {
    if (open_.size() >= kMostLevels) {
      throw YAML::ParserException(mark, str("nested deeper than ", kMostLevels, " levels"));
    }
    Open level;
    level.node = std::move(node);
    open_.push_back(std::move(level));
  }

  void close() {
    Node node = std::move(open_.back().node);
    open_.pop_back();
    attach(std::move(node));
  }

  void attach(Node node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == Node::Kind::list) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.has_key) {
      set_key(parent, node);
    } else {
      if (!parent.drop_value) {
        parent.node.entries.push_back({parent.key, parent.key_place, std::move(node)});
      }
      parent.has_key = false;
    }
  }

  void set_key(Open& map, const Node& node) {
    map.has_key = true;
    map.drop_value = true;
    map.key.clear();
    if (node.kind == Node::Kind::invalid) return;
    if (node.kind != Node::Kind::scalar) {
      add_problem(node.place, "a key must be a name; here stands a list, a map or nothing");
      return;
    }
    map.key = node.text;
    map.key_place = node.place;
    const auto [first, is_new] = map.seen.emplace(node.text, node.place);
    map.drop_value = !is_new;
    if (!is_new) {
      problems_.add(node.place, dotted(),
                    "is written twice (first at " + problems_.name(first->second) + ")");
    }
  }

  /// The key that is being read.
  std::string dotted() const {
    std::vector<std::string> keys;
    for (const Open& level : open_) {
      if (level.has_key && !level.key.empty()) keys.push_back(level.key);
    }
    return join(keys, ".");
  }

  void add_problem(Place at, const std::string& message) { problems_.add(at, dotted(), message); }

  int source_;
  bool with_lines_;
  Problems& problems_;
  int documents_ = 0;
  Node root_;
  std::vector<Open> open_;
};

// What keeps the text from being read at all, with its line. The parser takes a byte 4 for the end of the
// text, and repairs bad UTF-8 in silence: both are found before.
struct BadText {
  int line;
  const char* reason;
};
std::optional<BadText> find_bad_text(const std::string& text) {
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const bool has_control = std::any_of(line.begin(), line.end(), [](unsigned char c) {
      return (c < 0x20 && c != '\r' && c != '\t') || c == 0x7f;
    });
    if (has_control) return BadText{number, "holds control characters: this is not a text file"};
    if (!is_valid_utf8(line)) return BadText{number, "is not valid UTF-8"};
  }
  return std::nullopt;
}

}  // namespace

const Entry* Node::find(const std::string& key) const {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&key](const Entry& e) { return e.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

std::optional<Node> read_yaml(const std::string& text, int source, bool with_lines, Problems& problems) {
  if (text.size() > kMostBytes) {
    problems.add({source, 0}, "",
                 str("is ", human_bytes(static_cast<double>(text.size())), " long; no configuration is over ",
                     human_bytes(static_cast<double>(kMostBytes))));
    return std::nullopt;
  }
  if (const auto bad = find_bad_text(text)) {
    problems.add({source, with_lines ? bad->line : 0}, "", bad->reason);
    return std::nullopt;
  }
  TreeBuilder builder(source, with_lines, problems);
  try {
    // The parser forgives an open quote if the text ends in a line break: a comment at the end makes it
    // notice.
    std::istringstream stream(text + (!text.empty() && text.back() == '\n' ? "#" : "\n#"));
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    builder.report(e);
    return std::nullopt;
  }
  return builder.take();
}

void overlay(Node& under, Node over) {
  if (under.kind != Node::Kind::map || over.kind != Node::Kind::map) {
    under = std::move(over);
    return;
  }
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < under.entries.size(); ++i) index.emplace(under.entries[i].key, i);
  for (Entry& entry : over.entries) {
    const auto found = index.find(entry.key);
    if (found == index.end()) {
      under.entries.push_back(std::move(entry));
    } else {
      Entry& below = under.entries[found->second];
      below.place = entry.place;
      overlay(below.value, std::move(entry.value));
    }
  }
}

}  // namespace asplash::config
