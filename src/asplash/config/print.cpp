#include <algorithm>
#include <map>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/text.h"
#include "asplash/config/config.h"
#include "asplash/config/values.h"

namespace asplash::config {
namespace {

constexpr size_t kCommentColumns = 100;

/// Turns every field into its YAML text and a note on what is valid.
class FieldTexts : public Fields {
 public:
  void field(const char* key, bool& value, const char* doc) override {
    put(key, value ? "true" : "false", doc, "true or false");
  }
  void field(const char* key, int64_t& value, const char* doc, Range range) override {
    put(key, std::to_string(value), doc, describe_range(range));
  }
  void field(const char* key, double& value, const char* doc, Range range) override {
    put(key, print_double(value), doc, describe_range(range));
  }
  void field(const char* key, std::string& value, const char* doc) override {
    put(key, print_string(value), doc, "");
  }
  void field(const char* key, std::vector<double>& value, const char* doc, Range range) override {
    put(key, list(value, print_double), doc, each(range));
  }
  void field(const char* key, std::vector<int64_t>& value, const char* doc, Range range) override {
    put(key, list(value, [](int64_t x) { return std::to_string(x); }), doc, each(range));
  }
  void field(const char* key, std::vector<std::string>& value, const char* doc) override {
    put(key, list(value, print_string), doc, "");
  }
  void check(bool, const char*, const std::string&) override {}
  void only_where(bool ok, const char* key, const char*, const char*) override {
    if (!ok) next_unused_ = key;
  }

 protected:
  void choice_index(const char* key, int64_t& index, const std::vector<std::string>& names,
                    const char* doc) override {
    put(key, print_string(names[static_cast<size_t>(index)]), doc, "one of " + join(names, ", "));
  }

  /// `valid` may be empty. used: see only_where().
  virtual void text(const std::string& key, const std::string& value, const std::string& doc,
                    const std::string& valid, bool used) = 0;

 private:
  void put(const std::string& key, const std::string& value, const std::string& doc,
           const std::string& valid) {
    text(key, value, doc, valid, key != next_unused_);
    next_unused_.clear();
  }

  template <class Value, class Print>
  static std::string list(const std::vector<Value>& values, Print print) {
    std::vector<std::string> texts;
    for (const Value& value : values) texts.push_back(print(value));
    return "[" + join(texts, ", ") + "]";
  }
  static std::string each(const Range& range) {
    const std::string limits = describe_range(range);
    return limits.empty() ? "" : "each " + limits;
  }

  std::string next_unused_;  ///< key of the field described next, if it is not used
};

/// Dotted keys and their values, in order.
class Flattener final : public FieldTexts {
 public:
  explicit Flattener(bool with_unused) : with_unused_(with_unused) {}
  std::vector<std::pair<std::string, std::string>> take() { return std::move(values_); }

 protected:
  void text(const std::string& key, const std::string& value, const std::string&, const std::string&,
            bool used) override {
    if (used || with_unused_) values_.emplace_back(prefix_ + key, value);
  }
  void begin_section(const char* key, const char*) override { prefix_ += std::string(key) + "."; }
  void end_section() override {
    prefix_.pop_back();
    prefix_.erase(prefix_.find_last_of('.') + 1);
  }

 private:
  bool with_unused_;
  std::string prefix_;
  std::vector<std::pair<std::string, std::string>> values_;
};

std::vector<std::pair<std::string, std::string>> flatten(const Describe& describe, bool with_unused = false) {
  Flattener flattener(with_unused);
  describe(flattener);
  return flattener.take();
}

class Printer final : public FieldTexts {
  struct Section {
    size_t start;  ///< in out_, behind its own line
    bool holds_keys;
    std::string prefix;  ///< of its keys' dotted names
  };

 public:
  Printer() = default;
  /// With documentation. defaults: of each dotted key.
  explicit Printer(std::map<std::string, std::string> defaults)
      : with_docs_(true), defaults_(std::move(defaults)) {}
  std::string take() { return std::move(out_); }

 protected:
  void text(const std::string& key, const std::string& value, const std::string& doc,
            const std::string& valid, bool used) override {
    if (with_docs_)
      comment(
          str(doc, " (", valid, valid.empty() ? "" : "; ", "default ", defaults_.at(prefix() + key), ")"));
    out_ += indent() + (used ? "" : "# not used: ") + key + ": " + value + "\n";
    if (used && !sections_.empty()) sections_.back().holds_keys = true;
  }

  void begin_section(const char* key, const char* doc) override {
    if (with_docs_ && !out_.empty()) out_ += "\n";
    if (with_docs_) comment(doc);
    out_ += indent() + key + ":\n";
    if (!sections_.empty()) sections_.back().holds_keys = true;
    sections_.push_back({out_.size(), false, prefix() + key + "."});
  }

  void end_section() override {
    // A section without keys must still read back as a section.
    if (!sections_.back().holds_keys) out_.insert(sections_.back().start - 1, " {}");
    sections_.pop_back();
  }

 private:
  std::string indent() const { return std::string(2 * sections_.size(), ' '); }
  std::string prefix() const { return sections_.empty() ? "" : sections_.back().prefix; }

  void comment(const std::string& text) {
    const std::string start = indent() + "#";
    std::string line = start;
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = std::min(text.find_first_of(" \n", begin), text.size());
      const std::string word = text.substr(begin, end - begin);
      if (line.size() + 1 + word.size() > kCommentColumns && line != start) {
        out_ += line + "\n";
        line = start;
      }
      if (!word.empty()) line += " " + word;
      begin = end + 1;
    }
    if (line != start) out_ += line + "\n";
  }

  bool with_docs_ = false;
  std::map<std::string, std::string> defaults_;
  std::string out_;
  std::vector<Section> sections_;
};

}  // namespace

std::string print(const Describe& describe) {
  Printer printer;
  describe(printer);
  return printer.take();
}

std::string print_documented(const Describe& describe, const Describe& defaults) {
  const auto values = flatten(defaults, /*with_unused=*/true);
  Printer printer({values.begin(), values.end()});
  describe(printer);
  return printer.take();
}

std::vector<std::string> differences(const Describe& before, const Describe& after) {
  const auto old_values = flatten(before);
  const auto new_values = flatten(after);
  const std::map<std::string, std::string> old_by_key(old_values.begin(), old_values.end());
  std::vector<std::string> lines;
  for (const auto& [key, value] : new_values) {
    const auto old_value = old_by_key.find(key);
    const std::string from = old_value == old_by_key.end() ? "(none)" : old_value->second;
    if (from != value) lines.push_back(key + ": " + from + " -> " + value);
  }
  const std::map<std::string, std::string> new_by_key(new_values.begin(), new_values.end());
  for (const auto& [key, value] : old_values) {
    if (new_by_key.count(key) == 0) lines.push_back(key + ": " + value + " -> (none)");
  }
  return lines;
}

}  // namespace asplash::config
