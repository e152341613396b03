// The attention kernels against their definition in fp64, by one table of problems for all element types.

#include "asplash/kernels/entmax_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "kernels/attention_cases.h"
#include "kernels/attention_reference.h"
#include "kernels/attention_run.h"

namespace asplash::test {
namespace {

using kernels::ElementType;
using kernels::EntmaxStatistics;
using kernels::kTile;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string type_name(ElementType type) {
  return type == ElementType::fp32 ? "fp32" : type == ElementType::bf16 ? "bf16" : "fp16";
}

/// Relative errors (Frobenius) at scores of a few units, and how far under its rows' thresholds a tile in the
/// mask may lie.
struct Tolerance {
  double out, grad, tau, mask;
};
Tolerance tolerance_of(ElementType type) {
  if (type == ElementType::fp32) return {3e-6, 1e-5, 2e-6, 2e-5};
  // 16-bit gradients: what is left where dO.v and delta cancel is as wrong as the rounding of both; seen on
  // an H200: up to 4.7e-3 and 8.8e-3.
  if (type == ElementType::fp16) return {1e-3, 5e-3, 2e-4, 5e-3};
  return {4e-3, 1e-2, 2e-4, 5e-3};
}

// ---- comparisons ----

/// By the norm, and by the worst number.
void expect_close(const char* name, const std::vector<float>& a, const std::vector<double>& b,
                  double tolerance, double size = 0) {
  ASSERT_EQ(a.size(), b.size()) << name;
  EXPECT_EQ(first_nan_mismatch(a, b), -1) << name << ": NaN in one only";
  EXPECT_LE(relative_error(a, b, size), tolerance) << name;
  double largest = size / std::sqrt(static_cast<double>(std::max<size_t>(b.size(), 1))), worst = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(b[i])) continue;
    largest = std::max(largest, std::abs(b[i]));
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  EXPECT_LE(worst, 25 * tolerance * largest) << name << ": worst number";
}

void expect_tau(const std::vector<float>& tau, const std::vector<double>& expected, double tolerance) {
  EXPECT_EQ(first_nan_mismatch(tau, expected), -1) << "tau: NaN in one only";
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) continue;
    if (std::isinf(expected[i])) {
      ASSERT_EQ(tau[i], kInfinity) << "row " << i << " sees no key";
    } else {
      ASSERT_NEAR(tau[i], expected[i], tolerance) << "tau of row " << i;
    }
  }
}

/// Every row's weights at its own threshold sum to 1 within 1e-3, to first order: what the output, divided by
/// their sum, does not show. rounding: of a score.
void expect_unit_sums(const std::vector<float>& tau, const AttentionReference& reference, double exponent,
                      double rounding) {
  ASSERT_EQ(tau.size(), reference.tau.size());
  for (size_t i = 0; i < tau.size(); ++i) {
    if (!std::isfinite(reference.tau[i])) continue;
    const double slope = exponent * reference.weight_sum[i];
    ASSERT_LE(slope * std::abs(static_cast<double>(tau[i]) - reference.tau[i]), 1e-3 + slope * rounding)
        << "row " << i;
  }
}

/// Nothing with weight is missing, and almost nothing else is there.
void expect_mask(const kernels::EntmaxAttentionShape& shape, const std::vector<uint32_t>& mask,
                 const AttentionReference& reference, double margin) {
  int64_t useless = 0;
  for (const ReferenceTile& tile : reference.tiles) {
    const auto row = (int64_t{tile.batch} * shape.heads + tile.head) * shape.row_tiles() + tile.row_tile;
    const uint32_t word = mask[static_cast<size_t>(row * shape.mask_words() + tile.key_tile / 32)];
    const bool set = word >> (tile.key_tile % 32) & 1;
    EXPECT_TRUE(set || tile.excess < margin)
        << "batch " << tile.batch << ", head " << tile.head << ", row tile " << tile.row_tile << ", key tile "
        << tile.key_tile << " holds weight and is not in the mask";
    useless += set && tile.excess < -margin && std::isfinite(tile.excess);
  }
  EXPECT_LE(useless, static_cast<int64_t>(reference.tiles.size() / 50)) << "tiles without weight in the mask";
}

/// near_edge: pairs, tiles_near_edge: tiles that may count as zero or not.
void expect_statistics(const std::vector<unsigned long long>& counters, const AttentionReference& reference,
                       int64_t near_edge, int64_t tiles_near_edge) {
  const auto counter = [&](int i) { return static_cast<int64_t>(counters[static_cast<size_t>(i)]); };
  int64_t zero_tiles = 0, passes = 0;
  for (const ReferenceTile& tile : reference.tiles) zero_tiles += !(tile.excess > 0);
  for (int i = EntmaxStatistics::kPasses; i < EntmaxStatistics::kCounters; ++i) passes += counter(i);
  EXPECT_EQ(counter(EntmaxStatistics::kTiles), static_cast<int64_t>(reference.tiles.size()));
  EXPECT_EQ(counter(EntmaxStatistics::kRows), reference.rows);
  EXPECT_EQ(passes, reference.rows);
  EXPECT_NEAR(static_cast<double>(counter(EntmaxStatistics::kZeroTiles)), static_cast<double>(zero_tiles),
              static_cast<double>(tiles_near_edge));
  EXPECT_NEAR(static_cast<double>(counter(EntmaxStatistics::kSupport)),
              static_cast<double>(reference.support), static_cast<double>(near_edge));
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// Not of means: some are left out.
void expect_same_bits(const AttentionResult& a, const AttentionResult& b) {
  EXPECT_TRUE(same_bits(a.out, b.out)) << "out";
  EXPECT_TRUE(same_bits(a.tau, b.tau)) << "tau";
  EXPECT_TRUE(same_bits(a.weight_sum, b.weight_sum)) << "weight_sum";
  EXPECT_TRUE(same_bits(a.grad_query, b.grad_query)) << "grad_query";
  EXPECT_TRUE(same_bits(a.grad_key, b.grad_key)) << "grad_key";
  EXPECT_TRUE(same_bits(a.grad_value, b.grad_value)) << "grad_value";
  EXPECT_EQ(a.statistics, b.statistics);
}

// ---- tests ----

class EntmaxAttentionGpu : public testing::TestWithParam<ElementType> {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }
};

using TypedCase = std::tuple<ElementType, AttentionCase>;
class EntmaxAttentionCasesGpu : public testing::TestWithParam<TypedCase> {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }
};

void expect_agreement(const TypedCase& typed_case, const AttentionReference& reference,
                      const AttentionRun& run) {
  const auto& [type, test_case] = typed_case;
  const AttentionProblem& p = test_case.problem;
  run.forward();
  run.backward();
  const AttentionResult result = run.result();
  EXPECT_TRUE(run.surroundings_are_untouched()) << "written outside the tensors";

  // Scores err by their own rounding, and a power r multiplies it.
  const Tolerance base = tolerance_of(type);
  const double exponent = 1 / (static_cast<double>(p.alpha) - 1);
  const double rounding = (tolerance_of(ElementType::fp32).out) *
                          (std::max(1.0, reference.largest_score / 4) * std::max(1.0, exponent / 2) - 1);
  // Weights jump to 0 at the edge of the support for alpha 2, and are steep there from 1.5 on.
  const double share = reference.support > 0
                           ? static_cast<double>(reference.at_edge) / static_cast<double>(reference.support)
                           : 0;
  const double edge = p.alpha > 1.5F ? 2 * std::sqrt(share) + (p.alpha < 2 ? 1e-4 : 0) : 0;
  const double score_size = 1 + reference.largest_score;
  expect_close("out", result.out, reference.out, base.out + rounding);
  expect_tau(result.tau, reference.tau, base.tau * score_size);
  expect_unit_sums(result.tau, reference, exponent, tolerance_of(ElementType::fp32).tau * score_size);
  const double grad = base.grad * test_case.condition + 4 * rounding;
  expect_close("grad_query", result.grad_query, reference.grad_query, grad + edge,
               0.3 * reference.grad_query_size);
  expect_close("grad_key", result.grad_key, reference.grad_key, grad + edge, 0.3 * reference.grad_key_size);
  expect_close("grad_value", result.grad_value, reference.grad_value, grad);
  if (type == ElementType::fp32 || run.params.pairs_of_row == 0) {  // else means may be left out
    EXPECT_EQ(first_nan_mismatch(result.mean_value, reference.mean_value), -1);
  }
  EXPECT_EQ(first_nan_mismatch(result.weight_sum, reference.weight_sum), -1);
  expect_mask(run.params.shape, result.tile_mask, reference, base.mask * score_size);
  const bool broken =
      std::any_of(reference.tau.begin(), reference.tau.end(), [](double x) { return std::isnan(x); });
  if (!broken) {
    const bool exact = type == ElementType::fp32;
    const int64_t near_edge = reference.at_edge + (exact ? 0 : reference.support / 200);
    // Tiles count by the bound of the threshold, which lies a little lower.
    const int64_t tiles = static_cast<int64_t>(reference.tiles.size());
    expect_statistics(result.statistics, reference, near_edge, near_edge + (exact ? 0 : tiles / 200));
  }
}

TEST_P(EntmaxAttentionCasesGpu, AgreesWithItsDefinition) {
  const auto& [type, test_case] = GetParam();
  const AttentionInputs inputs = inputs_of(test_case, type);
  const AttentionReference reference = attention_reference(test_case.problem, inputs);
  AttentionRun run(type, test_case.problem, inputs);
  // The scan's blocks come in two sizes, chosen by the number of rows, and the backward goes by pairs or by
  // tiles.
  struct Way {
    int scan_row_tiles, pairs_of_row;
  };
  const bool one_way = type == ElementType::fp32;
  const bool one_size = test_case.problem.head_dim > 128;
  const int automatic = run.params.pairs_of_row;
  for (const Way& way : one_way ? std::vector<Way>{{0, automatic}}
                                : std::vector<Way>{{1, kTile}, {one_size ? 0 : 2, 0}, {0, automatic}}) {
    SCOPED_TRACE("scan_row_tiles " + std::to_string(way.scan_row_tiles) + ", pairs_of_row " +
                 std::to_string(way.pairs_of_row));
    run.params.scan_row_tiles = way.scan_row_tiles;
    run.params.pairs_of_row = way.pairs_of_row;
    run.poison();
    expect_agreement(GetParam(), reference, run);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, EntmaxAttentionCasesGpu,
                         testing::Combine(testing::Values(ElementType::fp32, ElementType::bf16,
                                                          ElementType::fp16),
                                          testing::ValuesIn(all_attention_cases())),
                         [](const auto& instance) {
                           return type_name(std::get<0>(instance.param)) + "_" +
                                  std::get<1>(instance.param).name;
                         });

const AttentionCase& mixed_case() {
  static const AttentionCase c = {"mixed", with(square(700, 64, 6), [](auto& p) {
                                    p.kv_heads = 2;
                                    p.slopes = {1, 0.1F, 0.01F, 0, 0, 0};
                                    p.cu_q = p.cu_k = {0, 5, 333, 333, 700};
                                  })};
  return c;
}

// Without room for the support, the backward goes by tiles.
TEST_P(EntmaxAttentionGpu, NeedsNoSupport) {
  const AttentionInputs inputs = inputs_of(mixed_case(), GetParam());
  AttentionRun run(GetParam(), mixed_case().problem, inputs);
  run.params.pairs_of_row = 0;
  run.forward();
  run.backward();
  const AttentionResult by_tiles = run.result();
  run.poison();
  run.params.support = nullptr;
  run.forward();
  run.backward();
  expect_same_bits(run.result(), by_tiles);
}

// Heads choose between pairs and tiles each for itself; what the heads of a group have of its keys is added
// up.
TEST_P(EntmaxAttentionGpu, HeadsOfAGroupGoDifferentWays) {
  const AttentionCase& test_case = mixed_case();
  const AttentionInputs inputs = inputs_of(test_case, GetParam());
  const AttentionReference reference = attention_reference(test_case.problem, inputs);
  AttentionRun run(GetParam(), test_case.problem, inputs);
  std::set<std::vector<float>> gradients;
  for (const int pairs_of_row : {0, 2, 3, 4, 5, 6, 8, 10, 12, 16, kTile}) {
    SCOPED_TRACE("pairs_of_row " + std::to_string(pairs_of_row));
    run.params.pairs_of_row = pairs_of_row;
    run.poison();
    expect_agreement({GetParam(), test_case}, reference, run);
    gradients.insert(run.result().grad_query);
  }
  if (GetParam() != ElementType::fp32) {
    EXPECT_GT(gradients.size(), 2U) << "of six heads, none went another way than the others";
  }
}

// A forward that leaves out means makes the backward go by pairs, whatever that is asked for.
TEST_P(EntmaxAttentionGpu, RowsWithoutMeansGoByPairs) {
  const AttentionCase test_case = {"spread", square(500, 64, 2)};
  const AttentionInputs inputs = inputs_of(test_case, GetParam());
  AttentionRun run(GetParam(), test_case.problem, inputs);
  run.params.pairs_of_row = kTile;
  run.forward();
  run.backward();
  const AttentionResult by_pairs = run.result();
  if (GetParam() != ElementType::fp32) {
    EXPECT_TRUE(std::any_of(by_pairs.mean_value.begin(), by_pairs.mean_value.end(), [](float x) {
      return std::isnan(x);
    })) << "all means are there";
  }
  run.poison();
  run.forward();
  run.params.pairs_of_row = 0;
  run.backward();
  expect_same_bits(run.result(), by_pairs);
}

// What a loss scaler looks for.
TEST_P(EntmaxAttentionGpu, OutputGradientsThatAreNotFiniteShow) {
  const AttentionCase c = {"grad_out", square(230, 64, 2)};
  constexpr size_t kRow = 230 + 70, kDim = 64;  // token 70 of head 1
  for (const float broken : {kNan, kInfinity, -kInfinity}) {
    AttentionInputs inputs = inputs_of(c, GetParam());
    token_of(c.problem, inputs.grad_out, c.problem.q_tokens, 1, 70)[3] = broken;
    const AttentionRun run(GetParam(), c.problem, inputs);
    run.forward();
    run.backward();
    const AttentionResult result = run.result();
    for (size_t i = 0; i < result.grad_query.size(); ++i) {
      ASSERT_EQ(std::isfinite(result.grad_query[i]), i / kDim != kRow) << broken << " at " << i;
    }
    for (const auto* gradients : {&result.grad_key, &result.grad_value}) {
      EXPECT_FALSE(
          std::all_of(gradients->begin(), gradients->end(), [](float x) { return std::isfinite(x); }));
    }
  }
}

TEST_P(EntmaxAttentionGpu, RepeatsBitwiseWhateverTheMemoryHeld) {
  const AttentionInputs inputs = inputs_of(mixed_case(), GetParam());
  for (const int pairs_of_row : {0, 3, kTile}) {  // by tiles, by either, by pairs
    AttentionRun first(GetParam(), mixed_case().problem, inputs);
    first.params.pairs_of_row = pairs_of_row;
    first.forward();
    first.backward();
    const AttentionResult expected = first.result();
    for (const uint8_t fill : {uint8_t{0x00}, uint8_t{0x3F}, uint8_t{0x7F}}) {
      AttentionRun run(GetParam(), mixed_case().problem, inputs, fill);
      run.params.pairs_of_row = pairs_of_row;
      run.forward();
      run.backward();
      expect_same_bits(run.result(), expected);
    }
    for (int repeat = 0; repeat < 15; ++repeat) {
      first.poison();
      first.forward();
      first.backward();
      const AttentionResult again = first.result();
      expect_same_bits(again, expected);
      ASSERT_EQ(again.tile_mask, expected.tile_mask);
      ASSERT_FALSE(HasFailure()) << "repeat " << repeat << ", pairs_of_row " << pairs_of_row;
    }
  }
}

TEST_P(EntmaxAttentionGpu, ReplaysAsAGraph) {
  const AttentionInputs inputs = inputs_of(mixed_case(), GetParam());
  const AttentionRun run(GetParam(), mixed_case().problem, inputs);
  run.forward();
  run.backward();
  const AttentionResult expected = run.result();
  run.poison();
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  run.forward(stream);
  run.backward(stream);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (int replay = 0; replay < 3; ++replay) {
    run.poison();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    expect_same_bits(run.result(), expected);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_P(EntmaxAttentionGpu, NeedsNoBackwardOutputsAndNoStatistics) {
  const AttentionInputs inputs = inputs_of(mixed_case(), GetParam());
  AttentionRun run(GetParam(), mixed_case().problem, inputs);
  run.forward();
  const AttentionResult full = run.result();
  run.poison();
  run.params.mean_value = nullptr;
  run.params.weight_sum = nullptr;
  run.params.statistics = nullptr;
  run.forward();
  const AttentionResult lean = run.result();
  EXPECT_TRUE(same_bits(lean.out, full.out));
  EXPECT_TRUE(same_bits(lean.tau, full.tau));
  EXPECT_EQ(lean.statistics, std::vector<unsigned long long>(EntmaxStatistics::kCounters, 0));
}

TEST_P(EntmaxAttentionGpu, WeightsSumToOne) {
  for (const float alpha : {1.1F, 1.5F, 2.0F}) {
    for (const double spread : {0.0, 0.001, 0.1, 2.0, 100.0, 10000.0}) {
      const AttentionProblem p = with(square(1500, 64), [&](auto& q) { q.alpha = alpha; });
      AttentionInputs inputs = normal_inputs(p, spread, 2);
      std::fill(inputs.value.begin(), inputs.value.end(), 1.0F);
      round_to(GetParam(), inputs);
      const AttentionRun run(GetParam(), p, inputs);
      run.forward();
      double worst = 0;
      for (const float sum : run.result().out)
        worst = std::max(worst, std::abs(static_cast<double>(sum) - 1));
      const double tolerance = GetParam() == ElementType::fp32   ? 5e-5  // 1500 additions
                               : GetParam() == ElementType::fp16 ? 1.5e-3
                                                                 : 4e-3;
      EXPECT_LE(worst, tolerance) << "alpha " << alpha << ", spread " << spread;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EntmaxAttentionGpu,
                         testing::Values(ElementType::fp32, ElementType::bf16, ElementType::fp16),
                         [](const auto& instance) { return type_name(instance.param); });

TEST(EntmaxAttention, WorkspaceIsLinearInTokens) {
  for (const ElementType type : {ElementType::fp32, ElementType::bf16}) {
    const auto bytes = [&](int tokens) {
      const kernels::EntmaxAttentionShape shape = shape_of(type, square(tokens, 128, 8));
      return std::pair(kernels::entmax_forward_workspace(shape), kernels::entmax_backward_workspace(shape));
    };
    // Up to 65536 keys a table of row tiles and key tiles grows with their square.
    const auto [forward, backward] = bytes(65536);
    const auto [forward_twice, backward_twice] = bytes(131072);
    EXPECT_LE(forward_twice, 2 * forward + 4096);
    EXPECT_LE(backward_twice, 2 * backward + 4096);
  }
}

}  // namespace
}  // namespace asplash::test
