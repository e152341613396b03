#pragma once

#include <functional>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/config/fields.h"

namespace asplash::config {

/// All problems of one configuration, one per line: "configs/x.yaml:14: train.micro_batch: ...".
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// Calls a struct's describe(); what load() and print() need of it.
using Describe = std::function<void(Fields&)>;

/// Reads `path` (its `base:` file first, relative to the file that names it; chains allowed, cycles refused),
/// applies `overrides` ("optim.lr=3e-4", values in YAML syntax) and fills the struct behind `describe`.
/// Throws ConfigError listing every problem: unknown keys (with the nearest valid name), wrong types, values
/// out of range, duplicate keys, failed checks, keys that contradict others, bad overrides; file, line and
/// key named for each. The struct then holds the values that were good.
///
/// An empty file means defaults. Numbers are decimal ("65536", "3e-4"; integers also as "1e6"), finite and
/// not in quotes; true and false are the only truth values; text is any scalar; a key without a value is
/// refused ("" is the empty text, [] the empty list; in overrides "key=" is the empty text, too). Lists
/// replace, maps merge. YAML anchors, aliases, tags and several documents are refused.
void load(const std::string& path, const std::vector<std::string>& overrides, const Describe& describe);

/// Keys that are written, but not used (Fields::only_where). What a program wrote itself may hold some.
enum class Unused { refused, allowed };

/// The same from text; `name` stands for the file in messages.
void load_text(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
               const Describe& describe, Unused unused = Unused::refused);

/// The struct as YAML that load() reads back to equal values.
std::string print(const Describe& describe);

/// The same, each field under a comment: its documentation, what is valid, and its default, which is the
/// value that `defaults` (another struct of that type) holds.
std::string print_documented(const Describe& describe, const Describe& defaults);

/// Dotted key and both values for each field that differs: "optim.lr: 0.001 -> 0.0003".
std::vector<std::string> differences(const Describe& before, const Describe& after);

template <class Struct>
Describe describing(Struct& value) {
  return [&value](Fields& fields) { value.describe(fields); };
}

}  // namespace asplash::config
