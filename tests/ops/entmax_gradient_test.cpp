// Gradients: finite differences of the operator itself in fp64, and what autograd makes of it.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/library.h>

#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/entmax_problem.h"
#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

namespace asplash::test {
namespace {

class EntmaxGradient : public OneThreadTest {};

struct Call {
  ops::EntmaxOptions options;
  at::Tensor slopes;
  std::optional<at::Tensor> cu_seqlens;

  at::Tensor operator()(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                        at::Tensor* statistics = nullptr) const {
    const at::Tensor* cu = cu_seqlens ? &*cu_seqlens : nullptr;
    return ops::entmax_attention(query, key, value, options, slopes.defined() ? &slopes : nullptr, cu, cu,
                                 statistics);
  }
};

/// How close the nearest score of any row is to its threshold: finite differences must not cross a support's
/// edge.
double edge_distance(const Inputs& in, const Call& call) {
  EntmaxCase reference;
  reference.alpha = call.options.alpha;
  reference.causal = call.options.causal;
  reference.scale = 1 / std::sqrt(static_cast<double>(in.query.size(3)));
  if (call.slopes.defined()) {
    for (int64_t h = 0; h < call.slopes.size(0); ++h)
      reference.slopes.push_back(call.slopes[h].item<double>());
  }
  if (call.cu_seqlens) {
    for (int64_t i = 0; i < call.cu_seqlens->size(0); ++i) {
      reference.cu_seqlens_q.push_back((*call.cu_seqlens)[i].item<int64_t>());
    }
    reference.cu_seqlens_k = reference.cu_seqlens_q;
  }
  return entmax_reference(in.query, in.key, in.value, reference).edge_distance;
}

/// Compares the gradient along random directions with central differences.
void expect_gradients(const Shape& shape, const Call& call) {
  constexpr double kStep = 1e-6;
  Inputs in = make_inputs(shape, at::kDouble);
  for (int attempt = 0; attempt < 200 && edge_distance(in, call) < 40 * kStep; ++attempt) {
    in = make_inputs(shape, at::kDouble);
  }
  ASSERT_GE(edge_distance(in, call), 40 * kStep) << "no inputs away from the supports' edges found";
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.query, in.key, in.value}) leaves.push_back(x.clone().requires_grad_(true));
  const auto grads = torch::autograd::grad({call(leaves[0], leaves[1], leaves[2])}, leaves, {in.grad_out});
  for (size_t which = 0; which < 3; ++which) {
    for (int direction = 0; direction < 3; ++direction) {
      std::vector<at::Tensor> up{in.query, in.key, in.value}, down = up;
      at::Tensor d = at::randn_like(up[which]);
      d = d / d.abs().max();
      up[which] = up[which] + kStep * d;
      down[which] = down[which] - kStep * d;
      const at::Tensor change = call(up[0], up[1], up[2]) - call(down[0], down[1], down[2]);
      const double numeric = (change * in.grad_out).sum().item<double>() / (2 * kStep);
      const double analytic = (grads[which] * d).sum().item<double>();
      EXPECT_NEAR(analytic, numeric, 1e-7 * std::max(1.0, std::abs(numeric))) << "operand " << which;
    }
  }
}

TEST_F(EntmaxGradient, AgreesWithFiniteDifferences) {
  at::manual_seed(20);
  for (const double alpha : {1.25, 1.5, 1.75, 2.0}) {
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << "alpha " << alpha << ", causal " << causal);
      Call call;
      call.options.alpha = alpha;
      call.options.causal = causal;
      expect_gradients({1, 2, 1, 12, 12, 4}, call);
      expect_gradients({1, 2, 2, 3, 20, 5}, call);
      call.slopes = at::tensor({0.5, 0.125}, at::kDouble).to(at::kFloat);
      expect_gradients({1, 2, 1, 12, 12, 4}, call);
    }
  }
}

TEST_F(EntmaxGradient, AgreesWithFiniteDifferencesAcrossDocuments) {
  at::manual_seed(21);
  Call call;
  call.cu_seqlens = offsets({0, 1, 1, 7, 15});
  expect_gradients({1, 2, 1, 15, 15, 4}, call);
}

TEST_F(EntmaxGradient, FlowsThroughTheDispatcher) {
  at::manual_seed(22);
  const Inputs in = make_inputs({1, 2, 1, 40, 40, 8}, at::kFloat);
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("asplash::entmax_attention", "")
                      .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, double,
                                        std::optional<double>, bool, const std::optional<at::Tensor>&,
                                        const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                        std::string_view)>();
  const at::Tensor query = in.query.clone().requires_grad_(true);
  const at::Tensor out = op.call(query, in.key, in.value, 1.5, std::nullopt, true, {}, {}, {}, "auto");
  EXPECT_TRUE(out.equal(ops::entmax_attention(in.query, in.key, in.value)));
  out.backward(in.grad_out);
  EntmaxCase reference;
  reference.scale = 1 / std::sqrt(8.0);
  EXPECT_LE(relative_error(query.grad(),
                           entmax_reference(in.query, in.key, in.value, reference, in.grad_out).grad_query),
            1e-5);
}

TEST_F(EntmaxGradient, ReachesOnlyWhatAsksForIt) {
  const Inputs in = make_inputs({1, 2, 2, 10, 10, 8}, at::kFloat);
  const at::Tensor value = in.value.clone().requires_grad_(true);
  at::Tensor statistics;
  const at::Tensor out =
      ops::entmax_attention(in.query, in.key, value, {}, nullptr, nullptr, nullptr, &statistics);
  EXPECT_TRUE(out.requires_grad());
  EXPECT_FALSE(statistics.requires_grad());
  out.sum().backward();
  EXPECT_TRUE(value.grad().defined());
  EXPECT_FALSE(in.query.grad().defined());
  EXPECT_FALSE(ops::entmax_attention(in.query, in.key, in.value).requires_grad());
}

TEST_F(EntmaxGradient, RefusesASecondDerivative) {
  const Inputs in = make_inputs({1, 1, 1, 10, 10, 8}, at::kDouble);
  const at::Tensor query = in.query.clone().requires_grad_(true);
  const at::Tensor out = ops::entmax_attention(query, in.key, in.value);
  const auto grads = torch::autograd::grad({out.square().sum()}, {query}, {}, true, true);
  EXPECT_THROW(grads[0].sum().backward(), c10::Error);
}

TEST_F(EntmaxGradient, RowsOfScoreGradientsSumToZero) {
  // A shift of a row's scores changes nothing, so dS sums to 0: with key = (k, 1) the last column of dQ is
  // that sum.
  at::manual_seed(23);
  for (const double alpha : {1.25, 1.5, 2.0}) {
    Inputs in = make_inputs({1, 2, 1, 150, 150, 8}, at::kDouble);
    in.key.select(3, 7).fill_(1);
    const at::Tensor query = in.query.clone().requires_grad_(true);
    ops::EntmaxOptions options;
    options.alpha = alpha;
    ops::entmax_attention(query, in.key, in.value, options).backward(in.grad_out);
    EXPECT_LE(query.grad().select(3, 7).abs().max().item<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace asplash::test
