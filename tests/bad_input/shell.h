#pragma once

#include <string>

namespace asplash::bad_input {

/// How a command ended, what it said, and how much memory it or a program started by it held.
struct Outcome {
  int status = -1;  ///< exit status; 128 + signal where a program was ended by one
  std::string out;
  std::string err;
  double peak_mib = 0;
};

/// Runs a /bin/sh script in `folder`, with this build's programs, tool and prelude.sh at hand; no input.
/// Everything it started is killed after `seconds` (status 137).
Outcome run_shell(const std::string& script, const std::string& folder, int seconds);

}  // namespace asplash::bad_input
