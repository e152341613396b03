// The decoder on a GPU against the CPU in fp64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/tiny.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

class DecoderGpu : public testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
    config_ = GetParam().config;
    config_.width = 64;
    config_.head_dim = 32;
    config_.init_std = 0.1;
  }
  model::ModelConfig config_;
};

struct Result {
  double loss;
  std::vector<Tensor> grads;
};

Result train_pass(model::LanguageModel& decoder, const model::ModelInput& input, const Tensor& targets) {
  std::vector<Tensor> values;
  for (const auto& parameter : decoder.parameters()) values.push_back(parameter.value);
  const Tensor loss = decoder.loss_sum(input, targets);
  return {loss.item().toDouble(), torch::autograd::grad({loss}, values)};
}

double distance(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i].cpu() - expected[i]).pow(2).sum().item().toDouble();
    size += expected[i].pow(2).sum().item<double>();
  }
  return std::sqrt(error / size);
}

TEST_P(DecoderGpu, EqualsTheCpu) {
  const Tensor tokens = random_tokens(2, 150, 29, 30), targets = random_tokens(2, 150, 29, 31);
  const at::Device device("cuda:0");
  for (const auto& cu_seqlens : {std::vector<int32_t>{}, std::vector<int32_t>{0, 70, 150, 151, 300}}) {
    auto exact = disturbed_decoder(config_, at::kDouble);
    const Result expected = train_pass(*exact, {tokens, cu_seqlens}, targets);
    // QK-norm makes scores sharp in this small model: rounding moves keys in and out of entmax's support.
    const double narrow_tolerance = config_.qk_norm ? 0.2 : 0.05;
    for (const auto& [type, tolerance] :
         {std::pair(at::kFloat, 1e-4), std::pair(at::kBFloat16, narrow_tolerance)}) {
      auto decoder = disturbed_decoder(config_, type, "cuda:0");
      const Result got = train_pass(*decoder, {tokens.to(device), cu_seqlens}, targets.to(device));
      EXPECT_NEAR(got.loss, expected.loss, 0.1 * tolerance * expected.loss) << type << cu_seqlens.size();
      EXPECT_LT(distance(got.grads, expected.grads), tolerance) << type << cu_seqlens.size();
    }
  }
}

TEST_P(DecoderGpu, DecodingEqualsOnePass) {
  const Tensor tokens = random_tokens(2, 20, 29, 32).to(at::Device("cuda:0"));
  const at::NoGradGuard no_grad;
  for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-4), std::pair(at::kBFloat16, 0.05)}) {
    auto decoder = disturbed_decoder(config_, type, "cuda:0");
    const Tensor all = decoder->logits({tokens, {}});
    const auto state = decoder->new_decode_state(2, 20);
    int64_t done = 0;
    for (const int64_t count : {12, 1, 1, 5, 1}) {
      const Tensor logits = decoder->decode(tokens.narrow(1, done, count), *state);
      done += count;
      EXPECT_LT(relative_difference(logits, all.select(1, done - 1)), tolerance) << type << " after " << done;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, DecoderGpu, testing::ValuesIn(all_configs()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace asplash::test
