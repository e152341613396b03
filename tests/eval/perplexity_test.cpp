#include "asplash/eval/perplexity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "fake_model.h"

namespace asplash::eval {
namespace {

constexpr int64_t kVocab = 7;

TokenStream stream_over(std::vector<int32_t> tokens, int64_t vocab = kVocab) {
  const auto count = static_cast<int64_t>(tokens.size());
  const auto read = [tokens = std::move(tokens)](int64_t begin, int64_t n, int32_t* out) {
    ASSERT_LE(static_cast<size_t>(begin + n), tokens.size());
    std::copy_n(tokens.begin() + begin, n, out);
  };
  return {count, vocab, read, {}};
}

/// The same with documents that begin at `begins`, ascending from 0.
TokenStream documents_over(std::vector<int32_t> tokens, const std::vector<int64_t>& begins) {
  TokenStream stream = stream_over(std::move(tokens));
  stream.document_begins = [begins](int64_t begin, int64_t end) {
    return std::vector<int64_t>(std::lower_bound(begins.begin(), begins.end(), begin),
                                std::lower_bound(begins.begin(), begins.end(), end));
  };
  return stream;
}

std::vector<int32_t> random_tokens(int64_t count, uint64_t seed = 5) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % kVocab);
  return tokens;
}

std::vector<float> uniform(const History&) {
  return std::vector<float>(kVocab, -std::log(static_cast<float>(kVocab)));
}

/// p(next | last): larger for the token after the last one.
double bigram(int32_t last, int32_t next) {
  return (next == (last + 1) % kVocab ? 4.0 : 1.0) / (kVocab + 3.0);
}

std::vector<float> bigram_row(const History& history) {
  std::vector<float> row(kVocab);
  for (int32_t next = 0; next < kVocab; ++next)
    row[static_cast<size_t>(next)] = static_cast<float>(std::log(bigram(history.back(), next)));
  return row;
}

/// A loss that tells how many tokens of context a target had: -log p = 1 / (tokens read).
std::vector<float> context_length_row(const History& history) {
  return std::vector<float>(kVocab, -1.0F / static_cast<float>(history.size()));
}

const std::vector<int32_t> kBytes = {0, 1, 1, 2, 3, 5, 8};

PerplexityOptions options_for(std::vector<int64_t> contexts) {
  PerplexityOptions options;
  options.contexts = std::move(contexts);
  options.trained_context = 16;
  options.tokens_per_batch = 64;
  return options;
}

TEST(Perplexity, OfAUniformModelIsTheVocabularySize) {
  FakeModel model(kVocab, uniform);
  const auto results =
      perplexity_by_context(model, stream_over(random_tokens(101)), kBytes, options_for({8, 32}));
  ASSERT_EQ(results.size(), 2U);
  for (const ContextResult& r : results) {
    EXPECT_NEAR(r.perplexity, kVocab, 1e-5);
    EXPECT_EQ(r.target_tokens, 100);
    EXPECT_GT(r.tokens_per_second, 0);
  }
}

TEST(Perplexity, OfABigramModelIsAnalyticForEveryContextAndStride) {
  const auto tokens = random_tokens(1234);
  double sum = 0;
  double bytes = 0;
  for (size_t t = 1; t < tokens.size(); ++t) {
    sum -= std::log(bigram(tokens[t - 1], tokens[t]));
    bytes += kBytes[static_cast<size_t>(tokens[t])];
  }
  FakeModel model(kVocab, bigram_row);
  for (const int64_t stride : {0, 1, 3, 8}) {
    PerplexityOptions options = options_for({8, 9, 100, 1233});
    options.stride = stride;
    for (const ContextResult& r : perplexity_by_context(model, stream_over(tokens), kBytes, options)) {
      EXPECT_EQ(r.target_tokens, 1233);
      EXPECT_EQ(r.target_bytes, static_cast<int64_t>(bytes));
      EXPECT_NEAR(r.loss, sum / 1233, 1e-7);
      EXPECT_NEAR(r.perplexity, std::exp(sum / 1233), 1e-6);
      EXPECT_NEAR(r.bits_per_byte, sum / std::log(2.0) / bytes, 1e-7);
    }
  }
}

TEST(Perplexity, BucketsAddUpToTheTotal) {
  FakeModel model(kVocab, context_length_row);
  for (const int64_t stride : {0, 5}) {
    PerplexityOptions options = options_for({13, 32});
    options.stride = stride;
    for (const ContextResult& r :
         perplexity_by_context(model, stream_over(random_tokens(333)), kBytes, options)) {
      int64_t targets = 0;
      double sum = 0;
      int64_t expected_first = 0;
      for (const PositionBucket& b : r.by_position) {
        EXPECT_EQ(b.first, expected_first);
        EXPECT_GT(b.target_tokens, 0);
        expected_first = b.last;
        targets += b.target_tokens;
        sum += b.loss * static_cast<double>(b.target_tokens);
      }
      EXPECT_EQ(expected_first, r.context);
      EXPECT_EQ(targets, r.target_tokens);
      EXPECT_NEAR(sum / static_cast<double>(targets), r.loss, 1e-12);
    }
  }
}

TEST(Perplexity, BucketsHoldTheirPositions) {
  FakeModel model(kVocab, context_length_row);
  const auto r =
      perplexity_by_context(model, stream_over(random_tokens(1 + 3 * 12)), kBytes, options_for({12}));
  const std::vector<std::pair<int64_t, int64_t>> bounds = {{0, 1}, {1, 2}, {2, 4}, {4, 8}, {8, 12}};
  ASSERT_EQ(r[0].by_position.size(), bounds.size());
  for (size_t i = 0; i < bounds.size(); ++i) {
    const PositionBucket& b = r[0].by_position[i];
    EXPECT_EQ(std::make_pair(b.first, b.last), bounds[i]);
    EXPECT_EQ(b.target_tokens, 3 * (b.last - b.first));
    double mean = 0;
    for (int64_t p = b.first; p < b.last; ++p) mean += 1.0 / static_cast<double>(p + 1);
    EXPECT_NEAR(b.loss, mean / static_cast<double>(b.last - b.first), 1e-6);
  }
}

TEST(Perplexity, WithOverlapNoTargetButTheFirstWindowsLacksContext) {
  // Every target beyond the first window has read at least 24 - 8 + 1 tokens.
  FakeModel model(kVocab, [](const History& history) {
    return std::vector<float>(kVocab, history.size() > 16 ? -1.0F : -1000.0F);
  });
  PerplexityOptions options = options_for({24});
  options.stride = 8;
  const auto r = perplexity_by_context(model, stream_over(random_tokens(500)), kBytes, options);
  EXPECT_NEAR(r[0].loss * 499, (499 - 16) + 16 * 1000.0, 1e-3);
}

TEST(Perplexity, DoesNotDependOnTheBatchSize) {
  const auto tokens = random_tokens(2000);
  std::vector<double> losses;
  for (const int64_t batch : {1, 64, 100, 4096, 1 << 20}) {
    FakeModel model(kVocab, bigram_row);
    PerplexityOptions options = options_for({48});
    options.tokens_per_batch = batch;
    losses.push_back(perplexity_by_context(model, stream_over(tokens), kBytes, options)[0].loss);
    EXPECT_LE(model.longest_batch, std::max<int64_t>(48, batch));
    EXPECT_EQ(model.forward_calls == 2, batch >= 4096);  // the full windows, and the last, shorter one
  }
  for (const double loss : losses) EXPECT_EQ(loss, losses[0]);
}

/// Losses from 1e-7 to 10, whose sum in floating point depends on the order.
std::vector<float> varied_row(const History& history) {
  std::vector<float> row(kVocab);
  for (size_t next = 0; next < row.size(); ++next) {
    const double angle = 3.7 * static_cast<double>(next) + 0.9 * history.front() +
                         1.3 * static_cast<double>(history.size()) + 2.1 * history.back();
    row[next] = static_cast<float>(-std::pow(10, 4 * std::sin(angle) - 3));
  }
  return row;
}

/// Documents that fill a window each: their order is the order of the windows.
TEST(Perplexity, DoesNotDependOnTheOrderOfTheWindows) {
  constexpr int64_t kContext = 24, kWindows = 150;
  std::vector<std::vector<int32_t>> documents;
  std::vector<int64_t> begins;
  for (int64_t i = 0; i < kWindows; ++i) {
    documents.push_back(random_tokens(kContext, static_cast<uint64_t>(i)));
    begins.push_back(i * kContext);
  }
  begins.push_back(kWindows * kContext);  // what the last token of the last window does not predict
  PerplexityOptions options = options_for({kContext});
  options.packed = true;
  std::mt19937_64 random(3);
  std::vector<double> losses, naive_sums;
  for (int order = 0; order < 8; ++order) {
    std::vector<int32_t> tokens;
    double naive = 0;
    for (const auto& document : documents) {
      for (size_t t = 1; t < document.size(); ++t) {
        const History history(document.begin(), document.begin() + static_cast<std::ptrdiff_t>(t));
        naive -= varied_row(history)[static_cast<size_t>(document[t])];
      }
      tokens.insert(tokens.end(), document.begin(), document.end());
    }
    tokens.push_back(0);
    FakeModel model(kVocab, varied_row);
    losses.push_back(perplexity_by_context(model, documents_over(tokens, begins), kBytes, options)[0].loss);
    naive_sums.push_back(naive);
    EXPECT_NEAR(losses.back(), naive / (kWindows * (kContext - 1)), 1e-12);
    std::shuffle(documents.begin(), documents.end(), random);
  }
  for (const double loss : losses) EXPECT_EQ(loss, losses[0]);
  EXPECT_NE(naive_sums, std::vector<double>(naive_sums.size(), naive_sums[0])) << "this shows nothing";
}

/// Documents of 1 to 60 tokens; one begins at a multiple of 8 and of 32.
std::vector<int64_t> document_begins(int64_t tokens) {
  std::vector<int64_t> begins = {0, 1, 2, 32, 33};
  for (int64_t length = 7; begins.back() + length < tokens; length = length * 5 % 61)
    begins.push_back(begins.back() + length);
  return begins;
}

TEST(Perplexity, OfPackedDocumentsIsOverTheSameTargetsAtEveryContextAndStride) {
  const auto tokens = random_tokens(1234);
  const auto begins = document_begins(1234);
  double sum = 0;
  int64_t targets = 0;
  for (int64_t t = 1; t < 1234; ++t) {
    if (std::binary_search(begins.begin(), begins.end(), t)) continue;
    sum -= std::log(bigram(tokens[static_cast<size_t>(t) - 1], tokens[static_cast<size_t>(t)]));
    ++targets;
  }
  FakeModel model(kVocab, bigram_row);
  for (const int64_t stride : {0, 3, 8}) {
    PerplexityOptions options = options_for({8, 9, 32, 100, 1233});
    options.stride = stride;
    options.packed = true;
    for (const auto& r : perplexity_by_context(model, documents_over(tokens, begins), kBytes, options)) {
      EXPECT_EQ(r.target_tokens, targets) << r.context << ", stride " << stride;
      EXPECT_NEAR(r.loss, sum / static_cast<double>(targets), 1e-7) << r.context << ", stride " << stride;
    }
  }
}

TEST(Perplexity, OfPackedDocumentsCountsPositionsWithinThem) {
  const auto begins = document_begins(1 + 32 * 40);
  PerplexityOptions options = options_for({32});
  options.packed = true;
  FakeModel model(kVocab, context_length_row);  // loses 1 / (tokens read)
  const auto r =
      perplexity_by_context(model, documents_over(random_tokens(1 + 32 * 40), begins), kBytes, options)[0];
  std::vector<int64_t> at_position(32, 0);
  for (int64_t t = 1, length = 1; t <= 32 * 40; ++t, ++length) {
    const bool begin = std::binary_search(begins.begin(), begins.end(), t);
    if (!begin) ++at_position[static_cast<size_t>(length) - 1];
    if (begin || t % 32 == 0) length = 0;
  }
  for (const PositionBucket& bucket : r.by_position) {
    double loss = 0;
    int64_t targets = 0;
    for (int64_t p = bucket.first; p < bucket.last; ++p) {
      targets += at_position[static_cast<size_t>(p)];
      loss += static_cast<double>(at_position[static_cast<size_t>(p)]) / static_cast<double>(p + 1);
    }
    EXPECT_EQ(bucket.target_tokens, targets) << bucket.first;
    EXPECT_NEAR(bucket.loss, loss / static_cast<double>(targets), 1e-6) << bucket.first;
  }
}

TEST(Perplexity, OfPackedDocumentsLeavesOutPositionsThatNoneReaches) {
  FakeModel model(kVocab, uniform);
  PerplexityOptions options = options_for({32});
  options.packed = true;
  std::vector<int64_t> begins;
  for (int64_t begin = 0; begin < 100; begin += 4) begins.push_back(begin);
  const auto r = perplexity_by_context(model, documents_over(random_tokens(101), begins), kBytes, options)[0];
  EXPECT_EQ(r.target_tokens, 75 + 1);
  ASSERT_EQ(r.by_position.size(), 3U);
  EXPECT_EQ(r.by_position.back().last, 4);
  for (int64_t begin = 0; begin < 100; ++begin) begins.push_back(begin);
  std::sort(begins.begin(), begins.end());
  const auto alone = documents_over(random_tokens(100), begins);
  EXPECT_THROW(perplexity_by_context(model, alone, kBytes, options), Error);
}

TEST(Perplexity, TakesTheFirstTargetsOnly) {
  const auto tokens = random_tokens(500);
  FakeModel model(kVocab, bigram_row);
  PerplexityOptions options = options_for({32, 7});
  options.max_targets = 77;
  double sum = 0;
  for (size_t t = 1; t <= 77; ++t) sum -= std::log(bigram(tokens[t - 1], tokens[t]));
  for (const ContextResult& r : perplexity_by_context(model, stream_over(tokens), kBytes, options)) {
    EXPECT_EQ(r.target_tokens, 77);
    EXPECT_NEAR(r.loss, sum / 77, 1e-6);
  }
}

TEST(Perplexity, SortsAndMarksContexts) {
  FakeModel model(kVocab, uniform);
  const auto results =
      perplexity_by_context(model, stream_over(random_tokens(200)), kBytes, options_for({32, 8, 16, 32, 8}));
  ASSERT_EQ(results.size(), 3U);
  EXPECT_EQ(results[0].context, 8);
  EXPECT_EQ(results[1].context, 16);
  EXPECT_EQ(results[2].context, 32);
  EXPECT_FALSE(results[0].beyond_trained);
  EXPECT_FALSE(results[1].beyond_trained);
  EXPECT_TRUE(results[2].beyond_trained);
}

TEST(Perplexity, RefusesWhatCannotBeEvaluated) {
  FakeModel model(kVocab, uniform);
  const auto stream = stream_over(random_tokens(50));
  EXPECT_THROW(perplexity_by_context(model, stream, kBytes, options_for({})), Error);
  EXPECT_THROW(perplexity_by_context(model, stream, kBytes, options_for({8, 50})), Error);
  EXPECT_EQ(model.forward_calls, 0) << "contexts are checked before the first one is evaluated";
  EXPECT_THROW(perplexity_by_context(model, stream, {1, 1}, options_for({8})), Error);
  FakeModel smaller(kVocab - 1, uniform);
  EXPECT_THROW(perplexity_by_context(smaller, stream, kBytes, options_for({8})), Error);
}

TEST(Perplexity, RefusesALossThatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    FakeModel model(kVocab, [bad](const History& history) {
      return std::vector<float>(kVocab, history.size() == 4 ? bad : -1.0F);
    });
    try {
      perplexity_by_context(model, stream_over(random_tokens(50)), kBytes, options_for({8}));
      FAIL() << "not refused";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("context 8: the loss of token 4 is"), std::string::npos)
          << error.what();
    }
  }
}

TEST(UnigramPerplexity, IsTheExponentOfTheEntropy) {
  // Targets are tokens 1..4: 1 1 2 2; token 0 and the last one are none.
  EXPECT_NEAR(unigram_perplexity(stream_over({6, 1, 1, 2, 2, 5}), 4, false), 2.0, 1e-12);
  EXPECT_NEAR(unigram_perplexity(stream_over({0, 3, 3, 3}), 3, false), 1.0, 1e-12);
  // Documents begin at places 2 and 5: of the targets 1 1 2 2 5 there remain 1 2 2.
  EXPECT_NEAR(unigram_perplexity(documents_over({6, 1, 1, 2, 2, 5, 1}, {0, 2, 5}), 5, true),
              3 / std::cbrt(4.0), 1e-12);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 200001; ++i) tokens.push_back((i + 6) % 7);
  EXPECT_NEAR(unigram_perplexity(stream_over(tokens), 7 * 28571, false), 7.0, 1e-9);
}

}  // namespace
}  // namespace asplash::eval
