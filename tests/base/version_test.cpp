#include "asplash/base/version.h"

#include <gtest/gtest.h>

#include <regex>

namespace asplash {
namespace {

TEST(Version, LooksLikeOne) {
  EXPECT_TRUE(std::regex_match(version(), std::regex("\\d+\\.\\d+\\.\\d+"))) << version();
  EXPECT_TRUE(std::regex_match(git_commit(), std::regex("unknown|[0-9a-f]{40}(-dirty)?"))) << git_commit();
}

}  // namespace
}  // namespace asplash
