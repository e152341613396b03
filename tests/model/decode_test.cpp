#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "asplash/base/error.h"
#include "model/tiny.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

class Decoding : public testing::TestWithParam<NamedConfig> {};

/// Logits after each of the parts' last tokens, against those of one pass over everything.
void expect_decoding_equals_logits(model::LanguageModel& decoder, const Tensor& tokens,
                                   const std::vector<int64_t>& parts, double tolerance) {
  const at::NoGradGuard no_grad;
  const Tensor all = decoder.logits({tokens, {}});
  const auto state = decoder.new_decode_state(tokens.size(0), tokens.size(1));
  int64_t done = 0;
  for (const int64_t count : parts) {
    const Tensor logits = decoder.decode(tokens.narrow(1, done, count), *state);
    done += count;
    EXPECT_EQ(state->length(), done);
    EXPECT_LT(relative_difference(logits, all.select(1, done - 1)), tolerance) << "after " << done;
  }
}

TEST_P(Decoding, EqualsOnePass) {
  auto decoder = disturbed_decoder(GetParam().config, at::kDouble);
  const Tensor tokens = random_tokens(2, 12, 29, 20);
  expect_decoding_equals_logits(*decoder, tokens, {12}, 1e-11);
  expect_decoding_equals_logits(*decoder, tokens, std::vector<int64_t>(12, 1), 1e-11);
  expect_decoding_equals_logits(*decoder, tokens, {5, 1, 4, 2}, 1e-11);
}

TEST_P(Decoding, EqualsOnePassInFp32AndBf16) {
  const Tensor tokens = random_tokens(1, 10, 29, 21);
  expect_decoding_equals_logits(*disturbed_decoder(GetParam().config, at::kFloat), tokens, {6, 1, 1, 2},
                                1e-4);
  expect_decoding_equals_logits(*disturbed_decoder(GetParam().config, at::kBFloat16), tokens, {6, 1, 1, 2},
                                0.1);
}

INSTANTIATE_TEST_SUITE_P(Configs, Decoding, testing::ValuesIn(all_configs()),
                         [](const auto& test) { return test.param.name; });

TEST(DecodeState, IsGuarded) {
  auto decoder = disturbed_decoder(all_configs()[0].config, at::kFloat);
  const auto state = decoder->new_decode_state(1, 4);
  EXPECT_EQ(state->capacity(), 4);
  EXPECT_FALSE(decoder->decode(random_tokens(1, 3, 29, 1), *state).requires_grad());
  EXPECT_THROW(decoder->decode(random_tokens(1, 2, 29, 1), *state), Error);
  EXPECT_THROW(decoder->decode(random_tokens(2, 1, 29, 1), *state), Error);
  EXPECT_EQ(state->length(), 3);
  decoder->decode(random_tokens(1, 1, 29, 1), *state);
  EXPECT_EQ(state->length(), 4);
  EXPECT_THROW(decoder->new_decode_state(0, 4), Error);
  EXPECT_THROW(decoder->new_decode_state(1, 0), Error);
}

}  // namespace
}  // namespace asplash::test
