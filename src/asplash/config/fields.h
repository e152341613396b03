#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

/// How a struct describes its YAML fields. A config struct lives with the module that owns it, holds plain
/// values with their defaults, and has
///
///     void describe(config::Fields& f) {
///       f.field("lr", lr, "peak learning rate", config::positive());
///       f.choice("schedule", schedule, schedule_names(), "shape of the learning rate after warm-up");
///       f.section("data", data, "what is read");
///       f.check(min_lr <= lr, "min_lr", str("must be at most lr (", lr, ")"));
///     }
///
/// The one description reads YAML, prints it with its documentation, and compares configurations.
namespace asplash::config {

/// The closed or open interval a number must lie in.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;   ///< low itself is not allowed
  bool high_open = false;  ///< high itself is not allowed
};
inline Range any() { return {}; }
inline Range at_least(double low) { return {low, Range{}.high, false, false}; }
inline Range positive() { return {0, Range{}.high, true, false}; }
inline Range between(double low, double high) { return {low, high, false, false}; }

/// The name of an enumeration's value; "" where it has none.
template <class Enum>
const char* name_in(const std::vector<std::pair<Enum, const char*>>& names, Enum value) {
  for (const auto& [named, name] : names) {
    if (named == value) return name;
  }
  return "";
}

class Fields {
 public:
  virtual ~Fields() = default;

  virtual void field(const char* key, bool& value, const char* doc) = 0;
  virtual void field(const char* key, int64_t& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* key, double& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* key, std::string& value, const char* doc) = 0;
  virtual void field(const char* key, std::vector<double>& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* key, std::vector<int64_t>& value, const char* doc, Range range = {}) = 0;
  virtual void field(const char* key, std::vector<std::string>& value, const char* doc) = 0;

  /// An enumeration by its names.
  template <class Enum>
  void choice(const char* key, Enum& value, const std::vector<std::pair<Enum, const char*>>& names,
              const char* doc) {
    std::vector<std::string> texts;
    int64_t index = 0;
    for (size_t i = 0; i < names.size(); ++i) {
      texts.emplace_back(names[i].second);
      if (names[i].first == value) index = static_cast<int64_t>(i);
    }
    choice_index(key, index, texts, doc);
    value = names[static_cast<size_t>(index)].first;
  }

  template <class Struct>
  void section(const char* key, Struct& value, const char* doc) {
    begin_section(key, doc);
    value.describe(*this);
    end_section();
  }

  /// States a rule between values: where `ok` is false, the problem is reported at `key`'s line (or its
  /// section's, where the key was not written). `key` may lie in a section below ("data.context"). Not
  /// reported where a value of this section, or of one below it, was bad itself; printing ignores checks.
  /// describe() sees valid values only: a bad one is not assigned.
  virtual void check(bool ok, const char* key, const std::string& message) = 0;

  /// States that the field `key`, described next, is used only where `ok`: where `decider`, a field of the
  /// same section described before, is `needed` ("alibi or nape"). Elsewhere a written `key` is reported as a
  /// contradiction, unless `decider` was written after it: by an override, or by a file that inherits the
  /// key's. Defaults contradict nothing. What is not used is printed as a comment and makes no difference.
  virtual void only_where(bool ok, const char* key, const char* decider, const char* needed) = 0;

 protected:
  virtual void choice_index(const char* key, int64_t& index, const std::vector<std::string>& names,
                            const char* doc) = 0;
  virtual void begin_section(const char* key, const char* doc) = 0;
  virtual void end_section() = 0;
};

}  // namespace asplash::config
