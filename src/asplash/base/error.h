#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace asplash {

/// An error that a user can act on: one line that names the file, key, line or argument, the value seen, and
/// what would be valid. Programs print it after "error: " and exit with status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins its arguments as text: str("got ", 3, " of ", 4).
template <class... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

/// Throws Error with the joined arguments.
template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  throw Error(asplash::str(args...));  // qualified: c10::str would be found for libtorch types
}

}  // namespace asplash
