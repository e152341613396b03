#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "asplash/base/error.h"
#include "asplash/data/loader.h"
#include "asplash/ops/linear_cross_entropy.h"
#include "model/tiny.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

static_assert(ops::kIgnoredTarget == data::kIgnoredTarget);

std::vector<Tensor> values_of(const model::LanguageModel& decoder) {
  std::vector<Tensor> values;
  for (const model::Parameter& parameter : decoder.parameters()) values.push_back(parameter.value);
  return values;
}

class EveryDecoder : public testing::TestWithParam<NamedConfig> {
 protected:
  const model::ModelConfig& config() const { return GetParam().config; }
};

TEST_P(EveryDecoder, GradientEqualsFiniteDifferences) {
  auto decoder = disturbed_decoder(config(), at::kDouble);
  const model::ModelInput input{random_tokens(2, 11, 29, 1), {0, 4, 11, 22}};
  const Tensor targets = random_tokens(2, 11, 29, 2);
  const auto loss = [&] { return decoder->loss_sum(input, targets); };
  const std::vector<Tensor> values = values_of(*decoder);
  const std::vector<Tensor> grads = torch::autograd::grad({loss()}, values);
  const at::NoGradGuard no_grad;
  // Along one random direction for each parameter. Entmax has kinks in its second derivative, and its
  // threshold for a general alpha carries rounding that the small step magnifies.
  const double step = 1e-6;
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor direction = at::randn_like(values[i]);
    values[i].add_(direction, step);
    const double above = loss().item<double>();
    values[i].sub_(direction, 2 * step);
    const double below = loss().item<double>();
    values[i].add_(direction, step);
    const double expected = (above - below) / (2 * step);
    const double got = (grads[i] * direction).sum().item<double>();
    EXPECT_NEAR(got, expected, 5e-6 * (1 + std::abs(expected))) << decoder->parameters()[i].name;
  }
}

TEST_P(EveryDecoder, LossEqualsPlainLogits) {
  auto decoder = disturbed_decoder(config(), at::kDouble);
  const model::ModelInput input{random_tokens(3, 9, 29, 1), {}};
  Tensor targets = random_tokens(3, 9, 29, 2);
  targets[1][4] = data::kIgnoredTarget;
  const Tensor logits = decoder->logits(input);
  ASSERT_EQ(logits.sizes(), at::IntArrayRef({3, 9, 29}));
  const Tensor counted = targets.ne(data::kIgnoredTarget);
  const Tensor index = targets.masked_fill(counted.logical_not(), 0).to(at::kLong).unsqueeze(2);
  const Tensor expected = at::log_softmax(logits, 2).gather(2, index).squeeze(2).neg() * counted;
  EXPECT_LT(relative_difference(decoder->token_losses(input, targets), expected), 1e-12);
  const Tensor loss = decoder->loss_sum(input, targets);
  EXPECT_LT(relative_difference(loss, expected.sum()), 1e-12);
  const std::vector<Tensor> values = values_of(*decoder);
  const auto grads = torch::autograd::grad({loss}, values);
  const auto expected_grads = torch::autograd::grad({expected.sum()}, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_LT(relative_difference(grads[i], expected_grads[i]), 1e-10) << decoder->parameters()[i].name;
  }
}

TEST_P(EveryDecoder, PackedDocumentsEqualDocumentsOneByOne) {
  auto decoder = disturbed_decoder(config(), at::kDouble);
  const Tensor tokens = random_tokens(2, 12, 29, 3);
  const Tensor targets = random_tokens(2, 12, 29, 4);
  const std::vector<int32_t> boundaries = {0, 5, 6, 12, 24};
  const Tensor packed = decoder->loss_sum({tokens, boundaries}, targets);
  const Tensor packed_logits = decoder->logits({tokens, boundaries}).view({24, 29});
  Tensor sum = at::zeros({}, at::kDouble);
  for (size_t d = 0; d + 1 < boundaries.size(); ++d) {
    const int64_t begin = boundaries[d], length = boundaries[d + 1] - begin;
    const auto part = [&](const Tensor& x) { return x.flatten().narrow(0, begin, length).unsqueeze(0); };
    sum = sum + decoder->loss_sum({part(tokens), {}}, part(targets));
    const Tensor logits = decoder->logits({part(tokens), {}})[0];
    EXPECT_LT(relative_difference(packed_logits.narrow(0, begin, length), logits), 1e-11) << d;
  }
  EXPECT_LT(relative_difference(packed, sum), 1e-12);
  const std::vector<Tensor> values = values_of(*decoder);
  const auto grads = torch::autograd::grad({packed}, values);
  const auto expected_grads = torch::autograd::grad({sum}, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_LT(relative_difference(grads[i], expected_grads[i]), 1e-10) << decoder->parameters()[i].name;
  }
}

TEST_P(EveryDecoder, FutureTokensDoNotMatter) {
  auto decoder = disturbed_decoder(config(), at::kDouble);
  const at::NoGradGuard no_grad;
  const Tensor tokens = random_tokens(1, 14, 29, 5);
  Tensor changed = tokens.clone();
  changed.narrow(1, 9, 5).copy_(random_tokens(1, 5, 29, 6));
  const Tensor before = decoder->logits({tokens, {}}).narrow(1, 0, 9);
  EXPECT_LT(relative_difference(decoder->logits({changed, {}}).narrow(1, 0, 9), before), 1e-12);
}

TEST_P(EveryDecoder, AccumulatedMicroBatchesEqualOneBatch) {
  auto decoder = disturbed_decoder(config(), at::kDouble);
  const Tensor tokens = random_tokens(4, 8, 29, 7), targets = random_tokens(4, 8, 29, 8);
  const std::vector<Tensor> values = values_of(*decoder);
  const auto whole = torch::autograd::grad({decoder->loss_sum({tokens, {}}, targets)}, values);
  for (int64_t row = 0; row < 4; ++row) {
    torch::autograd::backward({decoder->loss_sum({tokens.narrow(0, row, 1), {}}, targets.narrow(0, row, 1))},
                              {});
  }
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_LT(relative_difference(values[i].grad(), whole[i]), 1e-10) << decoder->parameters()[i].name;
  }
}

TEST_P(EveryDecoder, NarrowTypesStayCloseToFp64) {
  const model::ModelInput input{random_tokens(2, 16, 29, 9), {}};
  const Tensor targets = random_tokens(2, 16, 29, 10);
  // Weights of a usual size: with the sharp scores of the other tests, rounding to bf16 moves keys in and out
  // of entmax's support.
  model::ModelConfig smooth = config();
  smooth.init_std = 0.15;
  auto exact = disturbed_decoder(smooth, at::kDouble);
  const double expected = exact->loss_sum(input, targets).item<double>();
  const auto expected_grads = torch::autograd::grad({exact->loss_sum(input, targets)}, values_of(*exact));
  for (const auto& [type, tolerance] :
       {std::pair(at::kFloat, 1e-4), std::pair(at::kBFloat16, smooth.qk_norm ? 0.15 : 0.05)}) {
    auto decoder = disturbed_decoder(smooth, type);
    const Tensor loss = decoder->loss_sum(input, targets);
    EXPECT_EQ(loss.scalar_type(), at::kFloat);
    EXPECT_NEAR(loss.item<float>(), expected, tolerance * expected) << type;
    const auto grads = torch::autograd::grad({loss}, values_of(*decoder));
    Tensor error = at::zeros({}, at::kDouble), size = at::zeros({}, at::kDouble);
    for (size_t i = 0; i < grads.size(); ++i) {
      ASSERT_EQ(grads[i].scalar_type(), at::kFloat) << decoder->parameters()[i].name;
      error += (grads[i] - expected_grads[i]).pow(2).sum();
      size += expected_grads[i].pow(2).sum();
    }
    EXPECT_LT((error / size).sqrt().item<double>(), tolerance) << type;
    RecordProperty(at::toString(type), str((error / size).sqrt().item<double>()));
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, EveryDecoder, testing::ValuesIn(all_configs()),
                         [](const auto& test) { return test.param.name; });

TEST(Decoder, CountsEntmaxZeros) {
  auto decoder = disturbed_decoder(tiny_config(model::AttentionFunction::entmax, model::PositionKind::alibi),
                                   at::kFloat);
  const Tensor tokens = random_tokens(2, 70, 29, 11);
  model::AttentionStatistics statistics;
  decoder->loss_sum({tokens, {}}, tokens, &statistics);
  ASSERT_EQ(statistics.per_layer.sizes(), at::IntArrayRef({2, 8}));
  EXPECT_EQ(statistics.per_layer.scalar_type(), at::kDouble);
  EXPECT_EQ(statistics.per_layer[1][3].item<double>(), 2 * 4 * 70);
  EXPECT_EQ(statistics.per_layer[1][1].item<double>(), 2 * 4 * 3);
  auto dense = disturbed_decoder(tiny_config(model::AttentionFunction::softmax, model::PositionKind::alibi),
                                 at::kFloat);
  dense->loss_sum({tokens, {}}, tokens, &statistics);
  EXPECT_FALSE(statistics.per_layer.defined());
}

TEST(Decoder, TheReferenceImplementationComputesTheSame) {
  model::ModelConfig config = tiny_config(model::AttentionFunction::entmax, model::PositionKind::nape);
  const Tensor tokens = random_tokens(2, 70, 29, 13);
  const auto pass = [&](ops::EntmaxImplementation implementation) {
    config.attention.implementation = implementation;
    auto decoder = disturbed_decoder(config, at::kDouble);
    model::AttentionStatistics statistics;
    const Tensor loss = decoder->loss_sum({tokens, {0, 33, 140}}, tokens, &statistics);
    return std::tuple(loss.item<double>(), torch::autograd::grad({loss}, values_of(*decoder)),
                      statistics.per_layer);
  };
  const auto [loss, grads, counts] = pass(ops::EntmaxImplementation::automatic);
  const auto [reference_loss, reference_grads, reference_counts] = pass(ops::EntmaxImplementation::reference);
  EXPECT_NEAR(loss, reference_loss, 1e-9 * reference_loss);
  bool same_bits = true;
  for (size_t i = 0; i < grads.size(); ++i) {
    EXPECT_LE(relative_difference(grads[i], reference_grads[i]), 1e-9);
    same_bits = same_bits && grads[i].equal(reference_grads[i]);
  }
  EXPECT_FALSE(same_bits) << "the same implementation served both";
  EXPECT_TRUE(counts.equal(reference_counts));
}

TEST(Decoder, RefusesWhatItCannotTake) {
  auto decoder = disturbed_decoder(tiny_config(model::AttentionFunction::softmax, model::PositionKind::rope),
                                   at::kFloat);
  const Tensor tokens = random_tokens(1, 6, 29, 12);
  const auto message = [&](const Tensor& given, const Tensor& targets, std::vector<int32_t> cu_seqlens) {
    try {
      decoder->loss_sum({given, std::move(cu_seqlens)}, targets);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing thrown");
  };
  EXPECT_NE(message(at::full({1, 6}, 29, at::kInt), tokens, {}).find("token 29"), std::string::npos);
  EXPECT_NE(message(at::full({1, 6}, -1, at::kInt), tokens, {}).find("token -1"), std::string::npos);
  EXPECT_NE(message(tokens, at::full({1, 6}, 29, at::kInt), {}).find("target 29"), std::string::npos);
  EXPECT_NE(message(tokens, tokens.narrow(1, 0, 5), {}).find("targets must be like tokens"),
            std::string::npos);
  EXPECT_NE(message(tokens.to(at::kFloat), tokens, {}).find("int32 or int64"), std::string::npos);
  EXPECT_NE(message(tokens, tokens, {0, 5}).find("cu_seqlens"), std::string::npos);
  model::ModelConfig no_vocabulary = decoder->config();
  no_vocabulary.vocab_size = 0;
  EXPECT_THROW(model::make_decoder(no_vocabulary, "cpu", at::kFloat, 1), Error);
  EXPECT_THROW(model::make_decoder(decoder->config(), "cpu", at::kHalf, 1), Error);
}

}  // namespace
}  // namespace asplash::test
