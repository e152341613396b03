#include "asplash/eval/windows.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "asplash/base/error.h"

namespace asplash::eval {
namespace {

TEST(EvaluationWindows, EveryTargetIsScoredOnceForEveryContextAndStride) {
  for (int64_t targets = 1; targets <= 40; ++targets) {
    for (int64_t context = 1; context <= targets; ++context) {
      for (int64_t stride = 0; stride <= context; ++stride) {
        const EvaluationWindows windows(targets, context, stride);
        std::vector<int> scored(static_cast<size_t>(targets) + 1, 0);
        int64_t inputs = 0;
        for (int64_t i = 0; i < windows.size(); ++i) {
          const Window w = windows[i];
          inputs += w.length;
          ASSERT_LT(w.first_scored, w.length);
          if (i + 1 < windows.size()) {
            ASSERT_EQ(w.length, context);
          }
          for (int64_t p = w.first_scored; p < w.length; ++p)
            ++scored.at(static_cast<size_t>(w.begin + p + 1));
        }
        ASSERT_EQ(inputs, windows.input_tokens());
        ASSERT_EQ(scored[0], 0);
        for (int64_t t = 1; t <= targets; ++t)
          ASSERT_EQ(scored[static_cast<size_t>(t)], 1)
              << "target " << t << " of " << targets << ", context " << context << ", stride " << stride;
      }
    }
  }
}

TEST(EvaluationWindows, OverlappingWindowsGiveEveryTargetEnoughContext) {
  const EvaluationWindows windows(1000, 64, 16);
  for (int64_t i = 1; i < windows.size(); ++i) EXPECT_EQ(windows[i].first_scored, 48);
  EXPECT_EQ(windows[0].first_scored, 0);
  EXPECT_EQ(windows[3].begin, 48);
}

std::string message_of(int64_t targets, int64_t context, int64_t stride) {
  try {
    EvaluationWindows(targets, context, stride);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(EvaluationWindows, RefusesWhatDoesNotFit) {
  EXPECT_EQ(
      message_of(100, 128, 0),
      "context 128: larger than the 100 target tokens to evaluate on; give contexts of at most 100 or more "
      "data");
  EXPECT_EQ(message_of(100, 0, 0), "context 0: must be at least 1");
  EXPECT_EQ(message_of(100, 32, 33),
            "stride 33: must be between 1 and the smallest context (32), or 0 for no overlap");
  EXPECT_NE(message_of(100, 32, -1), "");
  EXPECT_EQ(message_of(100, 100, 100), "");
}

}  // namespace
}  // namespace asplash::eval
