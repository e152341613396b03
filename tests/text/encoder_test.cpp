#include <gtest/gtest.h>

#include "asplash/text/tokenizer.h"
#include "text/sample_text.h"

namespace asplash::text {
namespace {

class EncoderTest : public ::testing::TestWithParam<TokenizerModel> {};

TEST_P(EncoderTest, EqualsTheTokenizer) {
  const auto tokenizer = SampleModels::get().load(GetParam());
  Encoder encoder(tokenizer);
  Encoder forgetful(tokenizer, 1 << 18);
  std::mt19937_64 random(12);
  for (int i = 0; i < 800; ++i) {
    const std::string text = i % 4 == 0 ? made_up_text(random(), 60) : random_utf8(random, 80);
    const auto expected = tokenizer.encode(text);
    std::vector<int32_t> ids{-5};
    encoder.encode(text, ids);
    ASSERT_EQ(std::vector<int32_t>(ids.begin() + 1, ids.end()), expected) << text;
    ids.clear();
    forgetful.encode(text, ids);
    ASSERT_EQ(ids, expected) << text;
  }
}

TEST_P(EncoderTest, ForgetsWithinItsMemory) {
  // More different words than a small cache holds, met again and again.
  const auto tokenizer = SampleModels::get().load(GetParam());
  Encoder encoder(tokenizer, 1 << 18);
  std::string text;
  for (int i = 0; i < 30000; ++i) text += " w" + std::to_string(i * 7919 % 20000);
  std::vector<int32_t> ids;
  encoder.encode(text, ids);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(ids, tokenizer.encode(text));
}

INSTANTIATE_TEST_SUITE_P(Models, EncoderTest,
                         ::testing::Values(TokenizerModel::bpe, TokenizerModel::unigram));

}  // namespace
}  // namespace asplash::text
