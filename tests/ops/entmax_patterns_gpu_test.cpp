// The CUDA kernels on rows of scores made to be hard: ties, one key that takes all, scores that grow at every
// tile, thousands instead of ones, nothing or nearly everything zero; and on numbers that are not finite.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/entmax_gpu.h"

namespace asplash::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kKeys = 700;

class EntmaxPatternsGpu : public GpuTest {};

/// Rows that all have the scores z [keys] for alpha 1.5, exact in bf16: three dimensions of the keys hold the
/// leading, middle and last bits. Every tenth row sees them negated. Values and gradients are random.
struct Pattern {
  explicit Pattern(const at::Tensor& z, at::ScalarType type, int64_t head_dim = 64)
      : in(gpu_inputs({1, 2, 1, 300, z.size(0), head_dim}, type)) {
    in.query.zero_();
    in.key.zero_();
    in.query.narrow(3, 0, 3).fill_(1);
    in.query.slice(2, 0, std::nullopt, 10).neg_();
    at::Tensor rest = z.to(at::kCUDA, at::kDouble);
    for (int64_t part = 0; part < 3; ++part) {
      const at::Tensor bits = rest.to(at::kBFloat16);
      in.key.select(3, part).copy_(bits.expand({1, 1, z.size(0)}));
      rest = rest - bits;
    }
    call.scale = 2;  // z = (alpha - 1) scale q.k
    call.causal = false;
  }

  /// Gradients may vanish by cancellation: they are held against the size of their terms.
  void expect_match(double output_tolerance = 0) const {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(testing::Message() << "causal " << causal);
      EntmaxCase masked = call;
      masked.causal = causal;
      EntmaxTolerance tolerance = kernel_tolerance(in.query.scalar_type());
      tolerance.out = std::max(tolerance.out, output_tolerance);
      tolerance.grad_query = tolerance.grad_key = tolerance.grad_value = std::max(0.0046, output_tolerance);
      expect_kernels_match(in, masked, tolerance, true);
    }
  }

  Inputs in;
  EntmaxCase call;
};

template <class F>
void for_each_type(F check) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    SCOPED_TRACE(testing::Message() << type);
    check(type);
  }
}

at::Tensor normal(double spread) { return at::randn({kKeys}, at::kDouble) * spread; }

TEST_F(EntmaxPatternsGpu, EqualScoresShareTheMass) {
  for_each_type([](at::ScalarType type) {
    const Pattern pattern(at::full({kKeys}, 3.25, at::kDouble), type);
    pattern.expect_match();
    const EntmaxResults results = run_operators(pattern.in, pattern.call);
    const double tau = 3.25 - 1 / std::sqrt(static_cast<double>(kKeys));
    EXPECT_NEAR(results.tau[0][1][1].item<double>(), tau, 1e-5);
    EXPECT_NEAR(results.tau[0][1][299].item<double>(), tau, 1e-5);
  });
}

TEST_F(EntmaxPatternsGpu, OneDominantKeyTakesAll) {
  for_each_type([](at::ScalarType type) {
    for (const int64_t where : {0, 63, 64, 400, 699}) {
      SCOPED_TRACE(testing::Message() << "key " << where);
      at::Tensor z = normal(0.5);
      z[where].fill_(40);
      const Pattern pattern(z, type);
      pattern.expect_match();
      const EntmaxResults results = run_operators(pattern.in, pattern.call);
      EXPECT_EQ(results.tau[0][0][1].item<double>(), 39.0);
      EXPECT_TRUE(results.out[0][0][1].equal(pattern.in.value[0][0][where]));
    }
  });
}

TEST_F(EntmaxPatternsGpu, TiesAtTheThresholdEnd) {
  for_each_type([](at::ScalarType type) {
    for (const int64_t tops : {1, 4, 16, 64}) {  // tau = -1, -1/2, -1/4, -1/8: exact
      SCOPED_TRACE(testing::Message() << tops << " tops");
      at::Tensor z = at::full({kKeys}, -1 / std::sqrt(static_cast<double>(tops)), at::kDouble);
      z.index_put_({at::randperm(kKeys).narrow(0, 0, tops)}, at::zeros({tops}, at::kDouble));
      Pattern pattern(z, type);
      // A key exactly at the threshold may or may not be counted as support, and then its gradient weight is
      // rounding.
      const EntmaxResults results = run_operators(pattern.in, pattern.call);
      const EntmaxErrors errors = compare_with_dense(pattern.in, pattern.call, results);
      EXPECT_LE(errors.out, 0.0024);
      EXPECT_LE(errors.mass, 1e-3);
      EXPECT_LE(errors.hidden_excess, 0);
      EXPECT_NEAR(results.tau[0][0][1].item<double>(), -1 / std::sqrt(static_cast<double>(tops)), 1e-5);
      EXPECT_TRUE(results.grad_query.isfinite().all().item<bool>());
    }
  });
}

TEST_F(EntmaxPatternsGpu, GrowingAndShrinkingScores) {
  for_each_type([](at::ScalarType type) {
    for (const double step : {0.0001, 0.002, 0.03, 0.5}) {
      SCOPED_TRACE(testing::Message() << "step " << step);
      const at::Tensor rising = at::arange(kKeys, at::kDouble) * step;
      Pattern(rising, type).expect_match(5e-3);
      Pattern(rising.flip(0), type).expect_match(5e-3);
    }
  });
}

TEST_F(EntmaxPatternsGpu, ASinkColumnStaysActive) {
  for_each_type([](at::ScalarType type) {
    at::Tensor z = normal(0.3);
    z[0].fill_(1.5);
    Pattern(z, type).expect_match();
    const Inputs in = gpu_inputs({1, 2, 1, 2000, 2000, 64}, type, 0.5);
    in.key.select(2, 0).add_(0.5);
    in.query.add_(0.5);
    EntmaxTolerance tolerance = kernel_tolerance(type);
    tolerance.grad_value = std::max(tolerance.grad_value, 0.0030);  // the sink's key alone makes up its norm
    expect_kernels_match(in, default_case(in), tolerance);
  });
}

TEST_F(EntmaxPatternsGpu, LargeScoresLoseNothing) {
  for_each_type([](at::ScalarType type) {
    for (const double shift : {-1e4, -1e3, 1e3, 1e4}) {
      SCOPED_TRACE(testing::Message() << "shift " << shift);
      // fp32 rounds scores of 1e4 to 1e-3: what that does to weights is not an error.
      Pattern(normal(0.3) + shift, type).expect_match(0.02);
    }
    SCOPED_TRACE("spread over thousands");
    Pattern(normal(3e3), type).expect_match(0.02);
  });
}

TEST_F(EntmaxPatternsGpu, NoneAndNearlyAllTilesZero) {
  for_each_type([](at::ScalarType type) {
    const Inputs flat = gpu_inputs({1, 2, 1, 1000, 1000, 64}, type, 0.01);
    expect_kernels_match(flat, default_case(flat));
    EXPECT_EQ(run_operators(flat, default_case(flat)).statistics[0].item<double>(), 0);
    const Inputs near = gpu_inputs({1, 2, 1, 4096, 4096, 64}, type);
    EntmaxCase steep = default_case(near);
    steep.slopes = {5, 5};
    expect_kernels_match(near, steep);
    const at::Tensor counts = run_operators(near, steep).statistics.cpu();
    EXPECT_GT(counts[0].item<double>(), 0.95 * counts[1].item<double>());
  });
}

TEST_F(EntmaxPatternsGpu, BrokenQueriesSpoilTheirOwnRow) {
  for_each_type([](at::ScalarType type) {
    for (const double poison : {kNan, kInfinity, -kInfinity}) {
      SCOPED_TRACE(testing::Message() << poison);
      Inputs in = gpu_inputs({1, 2, 1, 200, 200, 64}, type);
      const EntmaxCase call = default_case(in);
      const EntmaxResults clean = run_operators(in, call);
      in.query[0][1][70][3].fill_(poison);
      const EntmaxResults results = run_operators(in, call);
      EXPECT_TRUE(results.out[0][1][70].isnan().all().item<bool>());
      EXPECT_TRUE(results.tau[0][1][70].isnan().item<bool>());
      EXPECT_TRUE(results.grad_query[0][1][70].isnan().all().item<bool>());
      EXPECT_EQ(results.out.isnan().sum().item<int64_t>(), 64);
      EXPECT_EQ(results.grad_query.isnan().sum().item<int64_t>(), 64);
      EXPECT_TRUE(results.grad_key.isfinite().all().item<bool>());
      EXPECT_TRUE(results.grad_value.isfinite().all().item<bool>());
      EXPECT_TRUE(results.out[0][0].equal(clean.out[0][0]));
      EXPECT_TRUE(results.out[0][1].narrow(0, 0, 70).equal(clean.out[0][1].narrow(0, 0, 70)));
      EXPECT_TRUE(results.out[0][1].narrow(0, 71, 129).equal(clean.out[0][1].narrow(0, 71, 129)));
    }
  });
}

TEST_F(EntmaxPatternsGpu, BrokenKeysSpoilTheRowsThatSeeThem) {
  for_each_type([](at::ScalarType type) {
    for (const double poison : {kNan, kInfinity}) {
      for (const bool alibi : {true, false}) {
        SCOPED_TRACE(testing::Message() << poison << ", alibi " << alibi);
        Inputs in = gpu_inputs({1, 1, 1, 300, 300, 64}, type);
        EntmaxCase call = default_case(in);
        if (alibi) call.slopes = {4};  // too far to reach, but not to break
        const EntmaxResults clean = run_operators(in, call);
        in.key[0][0][100][3].fill_(poison);
        const EntmaxResults results = run_operators(in, call);
        EXPECT_TRUE(results.out[0][0].narrow(0, 0, 100).equal(clean.out[0][0].narrow(0, 0, 100)));
        EXPECT_TRUE(results.out[0][0].narrow(0, 100, 200).isnan().all().item<bool>());
        const at::Tensor before = results.grad_query[0][0].narrow(0, 0, 100);
        EXPECT_LE(relative_error(before, clean.grad_query[0][0].narrow(0, 0, 100)), 5e-3);
      }
    }
  });
}

TEST_F(EntmaxPatternsGpu, BrokenValuesReachOnlyRowsThatGiveThemWeight) {
  for_each_type([](at::ScalarType type) {
    Inputs in = gpu_inputs({1, 1, 1, 300, 300, 64}, type, 1.5);
    const EntmaxCase call = default_case(in);
    Inputs seen = in;
    seen.value = at::zeros_like(in.value);
    seen.value[0][0][10].fill_(1);
    const at::Tensor touched = run_operators(seen, call).out[0][0].select(1, 0).gt(0);
    EXPECT_GT(touched.sum().item<int64_t>(), 0);
    EXPECT_LT(touched.sum().item<int64_t>(), 290);
    in.value = in.value.clone();
    in.value[0][0][10].fill_(kNan);
    const at::Tensor out = run_operators(in, call).out[0][0];
    EXPECT_TRUE(out.isnan().all(1).equal(touched));
    EXPECT_TRUE(out.isnan().any(1).equal(touched));
  });
}

}  // namespace
}  // namespace asplash::test
