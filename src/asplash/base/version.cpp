#include "asplash/base/version.h"

#include "asplash_git_commit.h"

namespace asplash {

std::string version() { return ASPLASH_VERSION; }

std::string git_commit() { return ASPLASH_GIT_COMMIT; }

}  // namespace asplash
