// The decoder against Hugging Face transformers: fixtures by scripts/golden/make_llama.py.

#include "model/golden.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsLossAndGradientsEqualHuggingFace) {
  const GoldenModel golden(GetParam());
  const auto decoder = golden.decoder();
  const model::ModelInput input{golden.at("tokens"), {}};
  EXPECT_LT(relative_difference(decoder->logits(input), golden.at("logits")), 1e-5);
  const Tensor loss = decoder->loss_sum(input, golden.at("targets"));
  EXPECT_LT(relative_difference(loss, golden.at("loss_sum")), 1e-5);
  loss.backward();
  for (const auto& [name, value] : decoder->parameters()) {
    EXPECT_LT(relative_difference(value.grad(), golden.at("gradient/" + name)), 1e-5) << name;
  }
  EXPECT_EQ(golden.count("gradient/"), decoder->parameters().size());
}

TEST_P(Golden, PackedDocumentsEqualHuggingFacesOneByOne) {
  const GoldenModel golden(GetParam());
  const auto decoder = golden.decoder();
  const Tensor ends = golden.at("train/cu_seqlens");
  const int32_t* first = ends.const_data_ptr<int32_t>();
  const model::ModelInput input{golden.at("train/tokens")[0], {first, first + ends.numel()}};
  ASSERT_GT(ends.numel(), input.tokens.size(0) + 1) << "no row holds two documents";
  EXPECT_LT(relative_difference(decoder->logits(input), golden.at("packed/logits")), 1e-5);
  const Tensor loss = decoder->loss_sum(input, golden.at("packed/targets"));
  EXPECT_LT(relative_difference(loss, golden.at("packed/loss_sum")), 1e-5);
  loss.backward();
  for (const auto& [name, value] : decoder->parameters()) {
    EXPECT_LT(relative_difference(value.grad(), golden.at("packed/gradient/" + name)), 1e-5) << name;
  }
  EXPECT_EQ(golden.count("packed/gradient/"), decoder->parameters().size());
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::Values("llama", "llama_tied", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace asplash::test
