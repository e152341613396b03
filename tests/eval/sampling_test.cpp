#include "asplash/eval/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "asplash/base/error.h"

namespace asplash::eval {
namespace {

std::vector<double> frequencies(const std::vector<float>& logits, const SamplingOptions& options, int draws) {
  TokenSampler sampler(options, 42);
  std::vector<double> shares(logits.size(), 0);
  for (int i = 0; i < draws; ++i) ++shares[static_cast<size_t>(sampler.sample(logits))];
  for (double& share : shares) share /= draws;
  return shares;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  for (const float x : logits) p.push_back(std::exp(x / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

const std::vector<float> kLogits = {0.5F, 2.0F, -1.0F, 1.0F, 0.0F};

TEST(Sampling, DrawsFromTheSoftmaxAtTheTemperature) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    const auto shares = frequencies(kLogits, {temperature, 0, 1.0}, 40000);
    const auto expected = softmax(kLogits, temperature);
    for (size_t i = 0; i < shares.size(); ++i)
      EXPECT_NEAR(shares[i], expected[i], 4 * std::sqrt(0.25 / 40000))
          << "token " << i << " at " << temperature;
  }
}

TEST(Sampling, TopKRenormalizesTheKLikeliest) {
  const auto shares = frequencies(kLogits, {1.0, 2, 1.0}, 40000);
  const double p1 = 1 / (1 + std::exp(-1.0));  // tokens 1 and 3 stay: logits 2 and 1
  EXPECT_NEAR(shares[1], p1, 0.01);
  EXPECT_NEAR(shares[3], 1 - p1, 0.01);
  EXPECT_EQ(shares[0] + shares[2] + shares[4], 0);
}

TEST(Sampling, TopPKeepsTheShortestPrefixThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1F), std::log(0.5F), std::log(0.15F), std::log(0.25F)};
  const auto kept = [&](double p) {
    const auto shares = frequencies(logits, {1.0, 0, p}, 4000);
    return std::count_if(shares.begin(), shares.end(), [](double s) { return s > 0; });
  };
  EXPECT_EQ(kept(1e-9), 1);
  EXPECT_EQ(kept(0.49), 1);
  EXPECT_EQ(kept(0.51), 2);
  EXPECT_EQ(kept(0.74), 2);
  EXPECT_EQ(kept(0.76), 3);
  EXPECT_EQ(kept(0.91), 4);
  EXPECT_EQ(kept(1.0), 4);
  const auto shares = frequencies(logits, {1.0, 0, 0.7}, 40000);
  EXPECT_NEAR(shares[1], 2.0 / 3, 0.01);
}

TEST(Sampling, TopPCountsWithinTopK) {
  // Of {0.5, 0.25}, renormalized to {2/3, 1/3}, the first alone reaches 0.6.
  const std::vector<float> logits = {std::log(0.1F), std::log(0.5F), std::log(0.15F), std::log(0.25F)};
  EXPECT_EQ(frequencies(logits, {1.0, 2, 0.6}, 1000)[1], 1.0);
}

TEST(Sampling, TemperatureZeroTakesTheLikeliestAndTheFirstOfEqualOnes) {
  TokenSampler sampler({0.0, 0, 1.0}, 1);
  EXPECT_EQ(sampler.sample(kLogits), 1);
  EXPECT_EQ(sampler.sample({3.0F, 7.0F, 7.0F}), 1);
  EXPECT_EQ(sampler.sample({-5.0F}), 0);
}

TEST(Sampling, EqualLogitsAtTheBoundaryOfTopKGoByTheirIds) {
  const auto shares = frequencies({1.0F, 2.0F, 1.0F, 1.0F}, {1.0, 2, 1.0}, 1000);
  EXPECT_GT(shares[0], 0);
  EXPECT_EQ(shares[2] + shares[3], 0);
}

TEST(Sampling, TopKOfOneAndBeyondTheVocabulary) {
  EXPECT_EQ(frequencies(kLogits, {5.0, 1, 1.0}, 100)[1], 1.0);
  const auto shares = frequencies(kLogits, {1.0, 1000, 1.0}, 40000);
  EXPECT_NEAR(shares[2], softmax(kLogits, 1.0)[2], 0.01);
}

TEST(Sampling, ExtremeLogitsAndTemperaturesStayFinite) {
  const float huge = std::numeric_limits<float>::max();
  EXPECT_EQ(frequencies({-huge, huge, 0.0F}, {1.0, 0, 1.0}, 100)[1], 1.0);
  EXPECT_EQ(frequencies({-huge, huge, 0.0F}, {1e-300, 3, 0.9}, 100)[1], 1.0);
  const auto shares = frequencies({-1.0F, 1.0F}, {1e9, 0, 1.0}, 10000);
  EXPECT_NEAR(shares[0], 0.5, 0.03);
}

TEST(Sampling, IsReproducibleBySeed) {
  const auto draw = [](uint64_t seed) {
    TokenSampler sampler({1.0, 0, 1.0}, seed);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 100; ++i) tokens.push_back(sampler.sample(kLogits));
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

TEST(Sampling, FollowsTheDocumentedRule) {
  // mt19937_64's 10000th value with the default seed is fixed by the C++ standard; ours must use its top 53
  // bits.
  std::mt19937_64 reference(9);
  TokenSampler sampler({1.0, 0, 1.0}, 9);
  const std::vector<float> equal(1000, 0.0F);
  for (int i = 0; i < 50; ++i) {
    const double u = static_cast<double>(reference() >> 11) * 0x1p-53;
    EXPECT_EQ(sampler.sample(equal), static_cast<int32_t>(u * 1000));
  }
}

TEST(Sampling, RefusesLogitsThatAreNotFinite) {
  TokenSampler sampler({1.0, 0, 1.0}, 1);
  TokenSampler greedy({0.0, 0, 1.0}, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
    EXPECT_THROW(sampler.sample({0.0F, bad, 1.0F}), Error);
    EXPECT_THROW(greedy.sample({0.0F, bad, 1.0F}), Error);
  }
  EXPECT_THROW(sampler.sample({}), Error);
}

TEST(Sampling, RefusesOptionsOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const SamplingOptions& bad :
       {SamplingOptions{-0.1, 0, 1.0}, SamplingOptions{nan, 0, 1.0}, SamplingOptions{1.0, -1, 1.0},
        SamplingOptions{1.0, 0, 0.0}, SamplingOptions{1.0, 0, 1.1}, SamplingOptions{1.0, 0, nan}})
    EXPECT_THROW(TokenSampler(bad, 1), Error);
}

}  // namespace
}  // namespace asplash::eval
