#include "asplash/ops/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "asplash/base/error.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

struct Problem {
  Tensor hidden, weight, targets;
};

Problem make_problem(int64_t rows, int64_t width, int64_t vocab, at::ScalarType type,
                     const at::Device& device = at::kCPU) {
  at::manual_seed(3);
  Problem p;
  p.hidden = at::randn({rows, width}, at::kDouble).to(device, type).requires_grad_(true);
  const auto weight_type = type == at::kDouble ? at::kDouble : at::kFloat;
  p.weight = at::randn({vocab, width}, at::kDouble).to(device, weight_type).requires_grad_(true);
  p.targets = at::randint(vocab, {rows}, at::kLong).to(device);
  if (rows > 2) p.targets[rows / 2] = ops::kIgnoredTarget;
  return p;
}

/// The same by whole logits, in fp64.
Tensor plain_rows(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  const Tensor logits = at::mm(hidden.to(at::kDouble), weight.to(at::kDouble).t());
  const Tensor counted = targets.ne(ops::kIgnoredTarget);
  const Tensor index = targets.masked_fill(counted.logical_not(), 0).to(at::kLong).unsqueeze(1);
  return at::log_softmax(logits, 1).gather(1, index).squeeze(1).neg() * counted;
}

std::vector<Tensor> gradients(const Tensor& loss, const Problem& p, double factor) {
  return torch::autograd::grad({loss * factor}, {p.hidden, p.weight});
}

TEST(LinearCrossEntropy, EqualsWholeLogitsAtEveryChunkSize) {
  const Problem p = make_problem(23, 8, 31, at::kDouble);
  const Tensor expected = plain_rows(p.hidden, p.weight, p.targets).sum();
  const std::vector<Tensor> expected_grads = gradients(expected, p, 0.3);
  for (const int64_t chunk : {1, 7, 22, 23, 24, 1000, 0}) {
    const Tensor loss = ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets, chunk);
    EXPECT_EQ(loss.scalar_type(), at::kDouble);
    EXPECT_LT(relative_difference(loss, expected), 1e-13) << chunk;
    const std::vector<Tensor> grads = gradients(loss, p, 0.3);
    EXPECT_LT(relative_difference(grads[0], expected_grads[0]), 1e-12) << chunk;
    EXPECT_LT(relative_difference(grads[1], expected_grads[1]), 1e-12) << chunk;
    const Tensor rows = ops::linear_cross_entropy_rows(p.hidden, p.weight, p.targets, chunk);
    EXPECT_LT(relative_difference(rows, plain_rows(p.hidden, p.weight, p.targets)), 1e-12) << chunk;
    EXPECT_EQ(rows[11].item<double>(), 0);
  }
}

TEST(LinearCrossEntropy, Fp32AndBf16StayClose) {
  for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-5), std::pair(at::kBFloat16, 2e-2)}) {
    const Problem p = make_problem(37, 16, 50, type);
    const Tensor expected = plain_rows(p.hidden, p.weight, p.targets).sum();
    const std::vector<Tensor> expected_grads = gradients(expected, p, 1);
    const Tensor loss = ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets, 10);
    EXPECT_EQ(loss.scalar_type(), at::kFloat);
    const std::vector<Tensor> grads = gradients(loss, p, 1);
    EXPECT_EQ(grads[0].scalar_type(), type);
    EXPECT_EQ(grads[1].scalar_type(), at::kFloat);
    EXPECT_LT(relative_difference(loss, expected), tolerance);
    EXPECT_LT(relative_difference(grads[0], expected_grads[0]), tolerance);
    EXPECT_LT(relative_difference(grads[1], expected_grads[1]), tolerance);
  }
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  Problem p = make_problem(5, 4, 9, at::kFloat);
  const Tensor hidden = p.hidden.detach() * 1e4;
  const Tensor loss = ops::linear_cross_entropy_sum(hidden, p.weight, p.targets);
  EXPECT_TRUE(std::isfinite(loss.item<float>()));
  EXPECT_LT(relative_difference(loss, plain_rows(hidden, p.weight, p.targets).sum()), 1e-5);
}

TEST(LinearCrossEntropy, GradientOnlyWhereAsked) {
  const Problem p = make_problem(6, 4, 9, at::kFloat);
  const Tensor loss = ops::linear_cross_entropy_sum(p.hidden.detach(), p.weight, p.targets);
  EXPECT_TRUE(torch::autograd::grad({loss}, {p.weight})[0].defined());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets).requires_grad());
}

TEST(LinearCrossEntropy, AllIgnoredGivesZero) {
  Problem p = make_problem(4, 4, 9, at::kFloat);
  const Tensor targets = at::full({4}, ops::kIgnoredTarget, at::kInt);
  const Tensor loss = ops::linear_cross_entropy_sum(p.hidden, p.weight, targets);
  EXPECT_EQ(loss.item<float>(), 0);
  for (const Tensor& grad : gradients(loss, p, 1)) EXPECT_EQ(grad.abs().max().item<float>(), 0);
}

TEST(LinearCrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  Problem p = make_problem(4, 4, 9, at::kFloat);
  for (const int64_t bad : {int64_t{9}, int64_t{-1}}) {
    p.targets[1] = bad;
    try {
      ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(str("target ", bad)), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets.narrow(0, 0, 2)), Error);
  EXPECT_THROW(ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets.to(at::kFloat)), Error);
}

TEST(LinearCrossEntropy, ChunksAreBounded) {
  for (const bool cuda : {false, true}) {
    EXPECT_LE(ops::loss_chunk_rows(32000, cuda) * 32000 * 4, int64_t{256} << 20);
    EXPECT_GE(ops::loss_chunk_rows(int64_t{1} << 40, cuda), 16);
  }
}

TEST(LinearCrossEntropyGpu, EqualsTheCpu) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-5), std::pair(at::kBFloat16, 2e-2)}) {
    const Problem p = make_problem(300, 64, 1000, type, at::Device("cuda:0"));
    const Tensor expected = plain_rows(p.hidden, p.weight, p.targets).sum();
    const std::vector<Tensor> expected_grads = gradients(expected, p, 0.5);
    const Tensor loss = ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets, 128);
    const std::vector<Tensor> grads = gradients(loss, p, 0.5);
    EXPECT_LT(relative_difference(loss, expected), tolerance);
    EXPECT_LT(relative_difference(grads[0], expected_grads[0]), tolerance);
    EXPECT_LT(relative_difference(grads[1], expected_grads[1]), tolerance);
  }
}

TEST(LinearCrossEntropyGpu, TargetOutsideTheVocabularyGivesNaN) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  Problem p = make_problem(4, 8, 9, at::kFloat, at::Device("cuda:0"));
  p.targets[1] = 9;
  EXPECT_TRUE(std::isnan(ops::linear_cross_entropy_sum(p.hidden, p.weight, p.targets).item<float>()));
}

}  // namespace
}  // namespace asplash::test
