#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace asplash::bad_input {

/// One row of the table: README.md says what each key means.
struct Case {
  std::string place;  ///< FILE:LINE
  std::string name;
  std::string setup;
  std::string run;
  int exit = 1;
  std::vector<std::string> says;
  std::vector<std::string> prints;
  int lines_before = 0;
  int lines_after = 0;
  std::vector<std::string> writes;
  double peak_mib = 0;  ///< 0: not measured
};

inline void PrintTo(const Case& row, std::ostream* out) { *out << row.name; }

/// The cases of tests/bad_input/NAME.yaml. Throws asplash::Error for a row that is not understood.
std::vector<Case> read_table(const std::string& name);

}  // namespace asplash::bad_input
