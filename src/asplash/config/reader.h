#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "asplash/config/config.h"
#include "asplash/config/fields.h"
#include "asplash/config/problems.h"
#include "asplash/config/tree.h"

namespace asplash::config {

/// Fills a described struct from a tree. A value is assigned only where it is valid, so that describe() never
/// computes with a bad one; everything else becomes a problem. Checks are dropped where the section they
/// stand in, or one below it, holds a bad value: what they would say is no news.
class Reader final : public Fields {
 public:
  /// `root` is a map; both outlive the reader.
  Reader(const Node& root, Problems& problems, Unused unused);

  void field(const char* key, bool& value, const char* doc) override;
  void field(const char* key, int64_t& value, const char* doc, Range range) override;
  void field(const char* key, double& value, const char* doc, Range range) override;
  void field(const char* key, std::string& value, const char* doc) override;
  void field(const char* key, std::vector<double>& value, const char* doc, Range range) override;
  void field(const char* key, std::vector<int64_t>& value, const char* doc, Range range) override;
  void field(const char* key, std::vector<std::string>& value, const char* doc) override;
  void check(bool ok, const char* key, const std::string& message) override;
  void only_where(bool ok, const char* key, const char* decider, const char* needed) override;

  /// After describe(): reports unknown keys and, with `checks`, the failed checks.
  void finish(bool checks);

 protected:
  void choice_index(const char* key, int64_t& index, const std::vector<std::string>& names,
                    const char* doc) override;
  void begin_section(const char* key, const char* doc) override;
  void end_section() override;

 private:
  struct FailedCheck {
    Place place;
    std::string key;  ///< dotted
    std::string message;
  };
  struct Section {
    std::string prefix;         ///< "" or "model.positions."
    const Node* map = nullptr;  ///< null where the section was not written
    Place place;                ///< of its key, or of what it would stand in
    std::vector<std::string> keys;
    bool bad = false;
    std::vector<FailedCheck> failed;
  };
  struct Unknown {
    Place place;
    std::string key;     ///< as written
    std::string path;    ///< the key, and what is written below it first: "attention.alpha"
    std::string prefix;  ///< of its section
    std::vector<std::string> siblings;
  };

  template <class Value, class Parse>
  void read_scalar(const char* key, Value& value, const std::string& kind, const Range& range, Parse parse);
  template <class Value, class Parse>
  void read_list(const char* key, std::vector<Value>& values, const std::string& kind, const Range& range,
                 Parse parse);
  template <class Value, class Parse>
  std::optional<Value> read_item(const Node& node, Place place, const std::string& dotted,
                                 const std::string& kind, const Range& range, Parse parse);

  const Entry* take(const char* key);
  std::string dotted(const char* key) const;
  void report(Place place, const std::string& dotted, const std::string& message);
  void close_section();
  std::string advice(const Unknown& unknown) const;
  std::string in_other_section(const Unknown& unknown) const;

  Problems& problems_;
  Unused unused_handling_;
  std::vector<Section> open_;
  std::vector<FailedCheck> failed_;
  std::vector<Unknown> unknown_;
  std::vector<std::string> known_;  ///< dotted keys of all fields
};

}  // namespace asplash::config
