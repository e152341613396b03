// Entmax attention against the dense fp64 reference: shapes, masks, groups, documents, biases, dtypes,
// layouts. Every case runs through the CPU implementation and through the tensor implementation that serves
// CUDA.

#include "asplash/ops/entmax_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "asplash/ops/entmax_problem.h"
#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

namespace asplash::test {
namespace {

class EntmaxAttention : public OneThreadTest {};

/// Runs both implementations on the inputs and compares everything with the reference.
void expect_matches(const Inputs& in, EntmaxCase call, double tolerance, bool default_scale = true) {
  if (default_scale) call.scale = 1 / std::sqrt(static_cast<double>(in.query.size(3)));
  const EntmaxReference expected = entmax_reference(in.query, in.key, in.value, call, in.grad_out);
  const auto scale = default_scale ? std::nullopt : std::optional<double>(call.scale);
  std::optional<at::Tensor> slopes;
  if (!call.slopes.empty()) slopes = at::tensor(call.slopes, at::kDouble).to(at::kFloat);
  const auto cu_q = offsets(call.cu_seqlens_q), cu_k = offsets(call.cu_seqlens_k);
  const ops::EntmaxArguments arguments{in.query,    in.key, in.value, call.alpha, scale,
                                       call.causal, slopes, cu_q,     cu_k};
  for (const bool tiled : {true, false}) {
    SCOPED_TRACE(tiled ? "CPU implementation" : "tensor implementation");
    const auto forward =
        tiled ? ops::entmax_forward_cpu(arguments, true) : ops::entmax_forward_tensor(arguments, true);
    const auto backward = tiled ? ops::entmax_backward_cpu(in.grad_out, forward.tau, arguments)
                                : ops::entmax_backward_tensor(in.grad_out, forward.tau, arguments);
    EXPECT_EQ(forward.out.scalar_type(), in.query.scalar_type());
    EXPECT_EQ(forward.out.sizes(), in.query.sizes());
    EXPECT_LE(relative_error(forward.out, expected.out), tolerance);
    EXPECT_LE(relative_error(backward.query, expected.grad_query), tolerance * 4);
    EXPECT_LE(relative_error(backward.key, expected.grad_key), tolerance * 4);
    EXPECT_LE(relative_error(backward.value, expected.grad_value), tolerance * 4);
    const at::Tensor tau = forward.tau.to(at::kDouble);
    EXPECT_TRUE(tau.isinf().equal(expected.tau.isinf()));
    const at::Tensor gap = at::where(tau.isinf(), 0.0, tau - expected.tau).abs();
    EXPECT_TRUE(gap.le(tolerance * 4).all().item<bool>());
    const double* counts = forward.statistics.data_ptr<double>();
    EXPECT_EQ(counts[1], expected.tiles);
    EXPECT_EQ(counts[3], expected.rows);
    if (in.query.scalar_type() == at::kDouble) {
      EXPECT_EQ(counts[0], expected.zero_tiles);
      EXPECT_EQ(counts[2], expected.support);
    }
  }
}

constexpr double kDoubleTolerance = 1e-12;
constexpr double kFloatTolerance = 4e-6;

TEST_F(EntmaxAttention, MatchesTheReferenceAtEveryLength) {
  at::manual_seed(1);
  for (const int64_t n : {1, 63, 64, 65, 127, 129, 191, 193, 300}) {
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << n << " tokens, causal " << causal);
      EntmaxCase call;
      call.causal = causal;
      expect_matches(make_inputs({1, 2, 2, n, n, 16}, at::kDouble), call, kDoubleTolerance);
    }
  }
}

TEST_F(EntmaxAttention, MatchesTheReferenceAtAThousandTokens) {
  at::manual_seed(2);
  EntmaxCase call;
  expect_matches(make_inputs({1, 1, 1, 1000, 1000, 64}, at::kFloat), call, kFloatTolerance);
  call.slopes = std::vector<double>{0.5};
  expect_matches(make_inputs({1, 1, 1, 1000, 1000, 64}, at::kFloat), call, kFloatTolerance);
}

TEST_F(EntmaxAttention, SharesKeyValueHeadsWithinGroups) {
  at::manual_seed(3);
  for (const int64_t ratio : {1, 2, 4, 7, 8}) {
    SCOPED_TRACE(testing::Message() << "ratio " << ratio);
    expect_matches(make_inputs({2, 2 * ratio, 2, 70, 70, 8}, at::kDouble), {}, kDoubleTolerance);
  }
}

TEST_F(EntmaxAttention, SolvesAnyAlpha) {
  at::manual_seed(4);
  for (const double alpha : {1.01, 1.1, 1.25, 4.0 / 3, 1.5, 1.75, 2.0}) {
    SCOPED_TRACE(testing::Message() << "alpha " << alpha);
    EntmaxCase call;
    call.alpha = alpha;
    expect_matches(make_inputs({1, 2, 1, 130, 130, 16}, at::kDouble), call, 1e-10);
    expect_matches(make_inputs({1, 2, 1, 130, 130, 16}, at::kFloat), call, alpha < 1.1 ? 2e-4 : 3e-5);
  }
}

TEST_F(EntmaxAttention, AlignsDifferingLengthsAtTheEnd) {
  at::manual_seed(5);
  const std::vector<std::pair<int64_t, int64_t>> lengths = {{1, 1}, {1, 200}, {3, 65},  {64, 190},
                                                            {5, 0}, {130, 7}, {65, 64}, {0, 10}};
  for (const auto& [q_tokens, k_tokens] : lengths) {
    for (const bool causal : {true, false}) {
      for (const bool alibi : {true, false}) {
        SCOPED_TRACE(testing::Message()
                     << q_tokens << " queries, " << k_tokens << " keys, causal " << causal);
        EntmaxCase call;
        call.causal = causal;
        if (alibi) call.slopes = std::vector<double>{0.25, 0.0};
        expect_matches(make_inputs({2, 2, 1, q_tokens, k_tokens, 16}, at::kDouble), call, kDoubleTolerance);
      }
    }
  }
}

TEST_F(EntmaxAttention, AppliesAlibiSlopes) {
  at::manual_seed(6);
  for (const bool causal : {true, false}) {
    EntmaxCase call;
    call.causal = causal;
    call.slopes = std::vector<double>{1.0, 0.25, 0.03125, 0.0};
    expect_matches(make_inputs({1, 4, 2, 333, 333, 16}, at::kDouble), call, kDoubleTolerance);
    expect_matches(make_inputs({1, 4, 2, 333, 333, 16}, at::kFloat), call, kFloatTolerance);
  }
}

TEST_F(EntmaxAttention, KeepsPackedDocumentsApart) {
  at::manual_seed(7);
  const std::vector<int64_t> boundaries = {0, 0, 1, 64, 128, 129, 192, 255, 320, 320, 383, 449};
  for (const bool causal : {true, false}) {
    EntmaxCase call;
    call.causal = causal;
    call.cu_seqlens_q = call.cu_seqlens_k = boundaries;
    call.slopes = std::vector<double>{0.5, 0.0};
    expect_matches(make_inputs({1, 2, 1, 449, 449, 16}, at::kDouble), call, kDoubleTolerance);
    call.cu_seqlens_q = std::vector<int64_t>{0, 3, 3, 67, 70, 71};
    call.cu_seqlens_k = std::vector<int64_t>{0, 64, 70, 70, 135, 336};
    expect_matches(make_inputs({1, 2, 2, 71, 336, 16}, at::kDouble), call, kDoubleTolerance);
  }
}

TEST_F(EntmaxAttention, TreatsPackedDocumentsLikeSingleOnes) {
  at::manual_seed(8);
  const Inputs in = make_inputs({1, 4, 2, 200, 200, 32}, at::kFloat);
  const std::vector<int64_t> boundaries = {0, 1, 1, 64, 66, 200};
  const at::Tensor cu = *offsets(boundaries);
  const at::Tensor packed = ops::entmax_attention(in.query, in.key, in.value, {}, nullptr, &cu, &cu);
  for (size_t d = 0; d + 1 < boundaries.size(); ++d) {
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(2, boundaries[d], boundaries[d + 1] - boundaries[d]);
    };
    EXPECT_TRUE(part(packed).equal(ops::entmax_attention(part(in.query), part(in.key), part(in.value)))) << d;
  }
}

TEST_F(EntmaxAttention, AcceptsOddHeadSizes) {
  at::manual_seed(9);
  for (const int64_t head_dim : {1, 5, 17, 80, 128}) {
    SCOPED_TRACE(testing::Message() << "head_dim " << head_dim);
    expect_matches(make_inputs({1, 2, 1, 100, 100, head_dim}, at::kDouble), {}, kDoubleTolerance);
    expect_matches(make_inputs({1, 2, 1, 100, 100, head_dim}, at::kFloat), {}, kFloatTolerance);
  }
}

TEST_F(EntmaxAttention, UsesTheGivenScale) {
  at::manual_seed(10);
  for (const double scale : {0.03, 1.0, -0.2}) {
    EntmaxCase call;
    call.scale = scale;
    expect_matches(make_inputs({1, 2, 2, 90, 90, 16}, at::kDouble), call, kDoubleTolerance, false);
  }
}

TEST_F(EntmaxAttention, AcceptsAnyStrides) {
  at::manual_seed(11);
  const Inputs in = make_inputs({2, 4, 2, 100, 100, 32}, at::kFloat);
  const at::Tensor expected = ops::entmax_attention(in.query, in.key, in.value);
  const auto by_token = [](const at::Tensor& x) { return x.transpose(1, 2).contiguous().transpose(1, 2); };
  EXPECT_TRUE(
      expected.equal(ops::entmax_attention(by_token(in.query), by_token(in.key), by_token(in.value))));
  EXPECT_EQ(ops::entmax_attention(by_token(in.query), in.key, in.value).stride(1), 32) << "keeps the layout";
  const auto by_column = [](const at::Tensor& x) { return x.transpose(2, 3).contiguous().transpose(2, 3); };
  EXPECT_TRUE(
      expected.equal(ops::entmax_attention(by_column(in.query), by_column(in.key), by_column(in.value))));
  const at::Tensor fused = at::cat({in.key, in.value}, 3);
  EXPECT_TRUE(
      expected.equal(ops::entmax_attention(in.query, fused.narrow(3, 0, 32), fused.narrow(3, 32, 32))));
}

TEST_F(EntmaxAttention, RoundsLowPrecisionOnce) {
  at::manual_seed(12);
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    const double unit = type == at::kBFloat16 ? 1.0 / 256 : 1.0 / 2048;
    const Inputs in = make_inputs({1, 4, 2, 257, 257, 64}, type);
    expect_matches(in, {}, unit);
    // What fp32 gives for the same inputs, rounded: nothing is lost on the way.
    const at::Tensor wide =
        ops::entmax_attention(in.query.to(at::kFloat), in.key.to(at::kFloat), in.value.to(at::kFloat));
    EXPECT_TRUE(ops::entmax_attention(in.query, in.key, in.value).equal(wide.to(type)));
  }
}

}  // namespace
}  // namespace asplash::test
