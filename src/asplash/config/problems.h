#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace asplash::config {

/// Where something was written: a line of a file, or an override.
struct Place {
  int source = 0;  ///< index given by Problems::add_source
  int line = 0;    ///< from 1; 0 for overrides
};

/// Collects what is wrong with a configuration, to report it all at once.
class Problems {
 public:
  /// A file whose places are to be named. Problems are sorted in the order in which sources were added.
  int add_file(const std::string& name);
  /// An override of `key`.
  int add_override(const std::string& key);

  /// `key` is dotted; empty where the problem is the file as a whole.
  void add(Place place, const std::string& key, const std::string& message);
  bool empty() const { return problems_.empty(); }
  /// So many that further ones need no help with spelling (a file that is no configuration at all).
  bool full() const;

  /// "configs/x.yaml:3", "--set optim.lr".
  std::string name(Place place) const;
  /// One problem per line, sorted by source and line.
  std::string text() const;

 private:
  struct Source {
    std::string name;
    std::string override_key;
  };
  struct Problem {
    Place place;
    std::string text;
  };
  std::vector<Source> sources_;
  std::vector<Problem> problems_;
  size_t left_out_ = 0;
};

}  // namespace asplash::config
