#include "asplash/eval/generation.h"

#include <gtest/gtest.h>

#include "fake_model.h"

namespace asplash::eval {
namespace {

constexpr int64_t kVocab = 10;

/// The next token is the last plus the number of tokens read, modulo the vocabulary: depends on all history.
std::vector<float> counting(const History& history) {
  std::vector<float> row(kVocab, 0.0F);
  row[(static_cast<size_t>(history.back()) + history.size()) % kVocab] = 5.0F;
  return row;
}

GenerationOptions greedy(int64_t max_tokens) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.sampling.temperature = 0;
  return options;
}

Generation run(const std::vector<int32_t>& prompt, const GenerationOptions& options,
               std::vector<int32_t>* seen = nullptr) {
  FakeModel model(kVocab, counting);
  return generate(model, prompt, options, [&](int32_t token) {
    if (seen) seen->push_back(token);
  });
}

TEST(Generation, ContinuesGreedilyWithTheWholeHistory) {
  std::vector<int32_t> seen;
  const Generation g = run({1, 2}, greedy(5), &seen);
  EXPECT_EQ(g.tokens, (std::vector<int32_t>{4, 7, 1, 6, 2}));
  EXPECT_EQ(seen, g.tokens);
  EXPECT_FALSE(g.stopped);
}

TEST(Generation, StopsAtTheStopTokenWithoutHandingItOut) {
  GenerationOptions options = greedy(50);
  options.stop_token = 6;
  std::vector<int32_t> seen;
  const Generation g = run({1, 2}, options, &seen);
  EXPECT_EQ(g.tokens, (std::vector<int32_t>{4, 7, 1}));
  EXPECT_EQ(seen, g.tokens);
  EXPECT_TRUE(g.stopped);
}

TEST(Generation, DrawsOnlyTokensOfTheTokenizer) {
  GenerationOptions options = greedy(200);
  options.vocab_size = 4;
  options.sampling.temperature = 100;
  for (const int32_t token : run({3}, options).tokens) EXPECT_LT(token, 4);
}

TEST(Generation, IsReproducibleBySeed) {
  GenerationOptions options = greedy(40);
  options.sampling.temperature = 3;
  options.seed = 11;
  const auto first = run({5}, options).tokens;
  EXPECT_EQ(run({5}, options).tokens, first);
  options.seed = 12;
  EXPECT_NE(run({5}, options).tokens, first);
}

TEST(Generation, RefusesBadInput) {
  EXPECT_THROW(run({}, greedy(5)), Error);
  EXPECT_THROW(run({1, 10}, greedy(5)), Error);
  EXPECT_THROW(run({-1}, greedy(5)), Error);
  EXPECT_THROW(run({1}, greedy(0)), Error);
  GenerationOptions options = greedy(5);
  options.vocab_size = 11;
  EXPECT_THROW(run({1}, options), Error);
}

}  // namespace
}  // namespace asplash::eval
