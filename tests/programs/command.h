#pragma once

#include <string>
#include <vector>

namespace asplash::programs {

/// How a program ended and what it said.
struct Outcome {
  int status = -1;  ///< exit status, or 128 + signal
  std::string out;
  std::string err;
};

/// Runs a program of this build ("asplash-eval"), or another by its absolute path, in `folder`, waits, and
/// returns what it wrote.
Outcome run(const std::string& program, const std::vector<std::string>& arguments, const std::string& folder,
            const std::string& input = "");

}  // namespace asplash::programs
