#pragma once

#include <string>

namespace asplash {

/// "0.1.0" as in CMakeLists.txt.
std::string version();
/// The git commit this build was made from, "-dirty" appended for a changed tree; "unknown" outside git.
std::string git_commit();

}  // namespace asplash
