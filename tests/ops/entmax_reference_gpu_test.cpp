// The reference implementation (tensor operations) on a GPU against the CPU implementation and the dense fp64
// reference: what the kernels are compared with in training, and what serves fp64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "asplash/ops/entmax_attention.h"
#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

namespace asplash::test {
namespace {

class EntmaxReferenceGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
    at::manual_seed(40);
  }
};

struct Results {
  at::Tensor out, statistics;
  std::vector<at::Tensor> grads;
};

Results run(const Inputs& in, const EntmaxCase& call, at::Device device) {
  const auto place = [&](const at::Tensor& x) { return x.detach().to(device); };
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.query, in.key, in.value})
    leaves.push_back(place(x).clone().requires_grad_(true));
  ops::EntmaxOptions options;
  options.alpha = call.alpha;
  options.causal = call.causal;
  options.implementation = ops::EntmaxImplementation::reference;
  at::Tensor slopes, cu_q, cu_k;
  if (!call.slopes.empty()) slopes = place(at::tensor(call.slopes, at::kDouble).to(at::kFloat));
  if (!call.cu_seqlens_q.empty()) cu_q = place(*offsets(call.cu_seqlens_q));
  if (!call.cu_seqlens_k.empty()) cu_k = place(*offsets(call.cu_seqlens_k));
  const auto given = [](const at::Tensor& x) { return x.defined() ? &x : nullptr; };
  Results results;
  results.out = ops::entmax_attention(leaves[0], leaves[1], leaves[2], options, given(slopes), given(cu_q),
                                      given(cu_k), &results.statistics);
  results.grads = torch::autograd::grad({results.out}, leaves, {place(in.grad_out)});
  return results;
}

void expect_matches(const Inputs& in, EntmaxCase call, double tolerance) {
  call.scale = 1 / std::sqrt(static_cast<double>(in.query.size(3)));
  const EntmaxReference expected = entmax_reference(in.query, in.key, in.value, call, in.grad_out);
  const Results results = run(in, call, at::kCUDA);
  EXPECT_TRUE(results.out.is_cuda());
  EXPECT_LE(relative_error(results.out, expected.out), tolerance);
  EXPECT_LE(relative_error(results.grads[0], expected.grad_query), tolerance * 4);
  EXPECT_LE(relative_error(results.grads[1], expected.grad_key), tolerance * 4);
  EXPECT_LE(relative_error(results.grads[2], expected.grad_value), tolerance * 4);
  const at::Tensor counts = results.statistics.cpu();
  EXPECT_EQ(counts[1].item<double>(), expected.tiles);
  EXPECT_EQ(counts[3].item<double>(), expected.rows);
  if (in.query.scalar_type() == at::kDouble) {
    EXPECT_EQ(counts[0].item<double>(), expected.zero_tiles);
    EXPECT_EQ(counts[2].item<double>(), expected.support);
  }
}

constexpr double kDoubleTolerance = 1e-12;
constexpr double kFloatTolerance = 4e-6;

TEST_F(EntmaxReferenceGpu, MatchesTheReferenceAtEveryLength) {
  for (const int64_t n : {1, 63, 64, 65, 127, 129, 191, 193, 1000}) {
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << n << " tokens, causal " << causal);
      EntmaxCase call;
      call.causal = causal;
      expect_matches(make_inputs({1, 4, 2, n, n, 32}, at::kDouble), call, kDoubleTolerance);
      expect_matches(make_inputs({1, 4, 2, n, n, 64}, at::kFloat), call, kFloatTolerance);
    }
  }
}

TEST_F(EntmaxReferenceGpu, SolvesAnyAlpha) {
  for (const double alpha : {1.1, 1.25, 1.5, 1.75, 2.0}) {
    SCOPED_TRACE(testing::Message() << "alpha " << alpha);
    EntmaxCase call;
    call.alpha = alpha;
    expect_matches(make_inputs({2, 2, 1, 200, 200, 16}, at::kDouble), call, 1e-10);
    expect_matches(make_inputs({2, 2, 1, 200, 200, 16}, at::kFloat), call, 3e-5);
  }
}

TEST_F(EntmaxReferenceGpu, AlignsDifferingLengthsAndBiasesAndDocuments) {
  for (const bool causal : {true, false}) {
    EntmaxCase call;
    call.causal = causal;
    call.slopes = std::vector<double>{0.5, 0.0};
    expect_matches(make_inputs({2, 2, 1, 1, 200, 16}, at::kDouble), call, kDoubleTolerance);
    expect_matches(make_inputs({2, 2, 1, 130, 7, 16}, at::kDouble), call, kDoubleTolerance);
    call.cu_seqlens_q = std::vector<int64_t>{0, 3, 3, 67, 70, 71};
    call.cu_seqlens_k = std::vector<int64_t>{0, 64, 70, 70, 135, 336};
    expect_matches(make_inputs({1, 2, 2, 71, 336, 16}, at::kDouble), call, kDoubleTolerance);
  }
}

TEST_F(EntmaxReferenceGpu, RoundsLowPrecisionOnce) {
  const Inputs in = make_inputs({1, 8, 2, 513, 513, 64}, at::kBFloat16);
  expect_matches(in, {}, 1.0 / 256);
  const Inputs wide{in.query.to(at::kFloat), in.key.to(at::kFloat), in.value.to(at::kFloat),
                    in.grad_out.to(at::kFloat)};
  EXPECT_LE(relative_error(run(in, {}, at::kCUDA).out, run(wide, {}, at::kCPU).out.to(at::kBFloat16)), 1e-4);
}

TEST_F(EntmaxReferenceGpu, SplitsLongRowsIntoChunks) {
  const Inputs in = make_inputs({1, 4, 2, 6000, 6000, 64}, at::kFloat);
  const Results cpu = run(in, {}, at::kCPU), gpu = run(in, {}, at::kCUDA);
  EXPECT_LE(relative_error(gpu.out, cpu.out), kFloatTolerance);
  for (size_t i = 0; i < 3; ++i) EXPECT_LE(relative_error(gpu.grads[i], cpu.grads[i]), kFloatTolerance * 4);
}

TEST_F(EntmaxReferenceGpu, BrokenQueriesSpoilTheirOwnRow) {
  for (const double poison :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Inputs in = make_inputs({1, 2, 1, 200, 200, 16}, at::kFloat);
    in.query[0][1][70][3].fill_(poison);
    const at::Tensor broken = run(in, {}, at::kCUDA).out.isnan().all(-1).cpu();
    EXPECT_EQ(broken.sum().item<int64_t>(), 1);
    EXPECT_TRUE(broken[0][1][70].item<bool>());
  }
}

TEST_F(EntmaxReferenceGpu, RepeatsBitwise) {
  const Inputs in = make_inputs({2, 4, 2, 700, 700, 64}, at::kFloat);
  const Results first = run(in, {}, at::kCUDA);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const Results again = run(in, {}, at::kCUDA);
    EXPECT_TRUE(again.out.equal(first.out));
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(again.grads[i].equal(first.grads[i]));
  }
}

}  // namespace
}  // namespace asplash::test
