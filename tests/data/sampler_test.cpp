#include "asplash/data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "asplash/base/error.h"

namespace asplash::data {
namespace {

std::vector<int64_t> order(const Sampler& sampler, int64_t epoch, int64_t count) {
  std::vector<int64_t> windows;
  for (int64_t i = 0; i < count; ++i) windows.push_back(sampler.window(epoch, i));
  return windows;
}

TEST(Sampler, EqualsTheDocumentedFunction) {
  // From a re-implementation of sampler.h's description in Python.
  EXPECT_EQ(order(Sampler(10, 0, true), 0, 8), (std::vector<int64_t>{7, 2, 5, 4, 0, 8, 3, 9}));
  EXPECT_EQ(order(Sampler(1000, 42, true), 3, 8),
            (std::vector<int64_t>{270, 480, 565, 740, 595, 238, 322, 705}));
  EXPECT_EQ(order(Sampler(1'000'000'000'000, 7, true), 1, 4),
            (std::vector<int64_t>{571348387073, 901863324130, 734075067804, 540966507117}));
}

TEST(Sampler, IsAPermutationOfEverySize) {
  for (const int64_t samples : {1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 255, 1000, 4096, 4097, 100000}) {
    for (const int64_t epoch : {0, 1}) {
      auto windows = order(Sampler(samples, 99, true), epoch, samples);
      std::sort(windows.begin(), windows.end());
      for (int64_t i = 0; i < samples; ++i) ASSERT_EQ(windows[static_cast<size_t>(i)], i) << samples;
    }
  }
}

TEST(Sampler, DiffersBetweenSeedsAndEpochs) {
  const Sampler sampler(1000, 5, true);
  EXPECT_NE(order(sampler, 0, 100), order(sampler, 1, 100));
  EXPECT_NE(order(sampler, 0, 100), order(Sampler(1000, 6, true), 0, 100));
  EXPECT_EQ(order(sampler, 7, 100), order(Sampler(1000, 5, true), 7, 100));
}

TEST(Sampler, SpreadsNeighboursOverTheData) {
  // The distance of successive windows of a random order has mean samples / 3.
  constexpr int64_t kSamples = 50000;
  const auto windows = order(Sampler(kSamples, 3, true), 0, kSamples);
  double distance = 0;
  for (size_t i = 1; i < windows.size(); ++i)
    distance += std::abs(static_cast<double>(windows[i] - windows[i - 1]));
  EXPECT_NEAR(distance / static_cast<double>(kSamples - 1), kSamples / 3.0, kSamples * 0.01);
}

TEST(Sampler, KeepsTheOrderWithoutShuffling) {
  EXPECT_EQ(order(Sampler(5, 1, false), 2, 5), (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(Sampler, RefusesSamplesOutsideTheEpoch) {
  const Sampler sampler(5, 1, true);
  EXPECT_THROW(sampler.window(0, 5), Error);
  EXPECT_THROW(sampler.window(0, -1), Error);
  EXPECT_THROW(Sampler(-1, 0, true), Error);
}

}  // namespace
}  // namespace asplash::data
