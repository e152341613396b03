// The attention kernels against their definition in fp64, by one table of problems for all element types.

#include "asplash/kernels/entmax_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention_reference.h"
#include "kernels/attention_run.h"

namespace asplash::test {
namespace {

using kernels::ElementType;
using kernels::EntmaxStatistics;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  std::string name;
  AttentionProblem problem;
  double spread = 2;
  std::function<void(const AttentionProblem&, AttentionInputs&)> edit = nullptr;
  double condition = 1;  ///< factor on the tolerance of the gradients
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

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

// ---- problems ----

AttentionProblem square(int tokens, int head_dim = 32, int heads = 2) {
  AttentionProblem p;
  p.heads = p.kv_heads = heads;
  p.q_tokens = p.k_tokens = tokens;
  p.head_dim = head_dim;
  p.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  return p;
}

AttentionProblem rectangle(int q_tokens, int k_tokens, bool causal = true) {
  AttentionProblem p = square(q_tokens, 64);
  p.k_tokens = k_tokens;
  p.causal = causal;
  return p;
}

template <class F>
AttentionProblem with(AttentionProblem p, F change) {
  change(p);
  return p;
}

/// The token's numbers in [batch * heads, tokens, head_dim].
float* token_of(const AttentionProblem& p, std::vector<float>& numbers, int tokens, int head, int token) {
  return numbers.data() +
         (static_cast<size_t>(head) * static_cast<size_t>(tokens) + static_cast<size_t>(token)) *
             static_cast<size_t>(p.head_dim);
}

/// Queries are the first unit vector, keys `score(j)` times it: at scale 1 the scores are score(j).
std::function<void(const AttentionProblem&, AttentionInputs&)> scores(std::function<double(int)> score) {
  return [score](const AttentionProblem& p, AttentionInputs& in) {
    std::fill(in.query.begin(), in.query.end(), 0.0F);
    std::fill(in.key.begin(), in.key.end(), 0.0F);
    for (size_t at = 0; at < in.query.size(); at += static_cast<size_t>(p.head_dim)) in.query[at] = 1;
    for (int head = 0; head < p.batch * p.kv_heads; ++head) {
      for (int j = 0; j < p.k_tokens; ++j) {
        *token_of(p, in.key, p.k_tokens, head, j) = static_cast<float>(score(j));
      }
    }
  };
}

void add_shapes(std::vector<Case>& cases) {
  for (const int tokens : {1, 2, 63, 64, 65, 127, 128, 129, 191, 193, 321, 600}) {
    cases.push_back({"tokens_" + std::to_string(tokens), square(tokens)});
  }
  for (const int head_dim : {32, 64, 96, 128, 256}) {
    cases.push_back({"head_dim_" + std::to_string(head_dim), square(200, head_dim)});
    cases.push_back({"head_dim_" + std::to_string(head_dim) + "_dense", square(130, head_dim), 0.05});
  }
  for (const int q_tokens : {1, 5, 64, 100}) {
    for (const int k_tokens : {1, 37, 130, 300}) {
      const std::string name = std::to_string(q_tokens) + "_of_" + std::to_string(k_tokens);
      cases.push_back({"causal_" + name, rectangle(q_tokens, k_tokens)});
      cases.push_back({"full_" + name, rectangle(q_tokens, k_tokens, false)});
    }
  }
  cases.push_back({"no_keys", rectangle(70, 0)});
  cases.push_back({"no_queries", rectangle(0, 70)});
  cases.push_back({"long_decode", rectangle(1, 5000)});
  // Row bits for 1, 2, 4 and 8 rows, and more rows than the backward lists in one go.
  for (const auto& [q_tokens, k_tokens] :
       {std::pair(70, 32768), {70, 32769}, {67, 65537}, {40, 131073}, {66000, 70}}) {
    const auto long_problem = with(rectangle(q_tokens, k_tokens, k_tokens > q_tokens), [](auto& p) {
      p.heads = p.kv_heads = 1;
      p.head_dim = 32;
      p.scale = 0.177F;
    });
    cases.push_back({"long_" + std::to_string(q_tokens) + "_of_" + std::to_string(k_tokens), long_problem});
  }
  cases.push_back({"batch_3", with(square(150), [](auto& p) { p.batch = 3; })});
  cases.push_back({"batch_300", with(square(3, 32, 1), [](auto& p) { p.batch = 300; })});
  for (const int group : {2, 4, 7, 8}) {
    cases.push_back({"group_" + std::to_string(group), with(square(140, 32, 2 * group), [](auto& p) {
                       p.kv_heads = 2;
                       p.batch = 2;
                     })});
  }
  cases.push_back({"one_kv_head", with(square(140, 64, 3), [](auto& p) { p.kv_heads = 1; })});
}

void add_options(std::vector<Case>& cases) {
  for (const float alpha : {1.05F, 1.25F, 1.5F, 1.75F, 2.0F}) {
    const auto problem = [&](int tokens, bool causal) {
      return with(square(tokens, 64), [&](auto& p) {
        p.alpha = alpha;
        p.causal = causal;
      });
    };
    const std::string name = "alpha_" + std::to_string(static_cast<int>(std::lround(100 * alpha)));
    cases.push_back({name, problem(260, true)});
    cases.push_back({name + "_sparse", problem(260, true), 12});
    cases.push_back({name + "_dense", problem(190, false), 0.05});
  }
  const auto slopes = [](auto& p) { p.slopes = {1, 0.25F, 0.01F, 0}; };
  cases.push_back({"alibi", with(square(400, 32, 4), slopes)});
  cases.push_back(
      {"alibi_decode", with(with(rectangle(3, 400), [](auto& p) { p.heads = p.kv_heads = 4; }), slopes)});
  cases.push_back({"alibi_full", with(with(square(260, 64, 4), slopes), [](auto& p) { p.causal = false; })});
  cases.push_back({"scale_0", with(square(200), [](auto& p) { p.scale = 0; })});
  cases.push_back({"scale_negative", with(square(200), [](auto& p) { p.scale = -0.3F; })});
  cases.push_back({"scale_0_alibi", with(with(square(200, 32, 4), slopes), [](auto& p) { p.scale = 0; })});
  const auto documents = [](std::vector<int32_t> q, std::vector<int32_t> k) {
    return [q, k](auto& p) {
      p.cu_q = q;
      p.cu_k = k;
      p.q_tokens = q.back();
      p.k_tokens = k.back();
    };
  };
  const std::vector<int32_t> edges = {0, 1, 1, 64, 128, 193, 193, 194, 320, 450};
  for (const bool causal : {true, false}) {
    const std::string kind = causal ? "causal" : "full";
    const auto base = with(square(1, 32, 4), [&](auto& p) {
      p.causal = causal;
      p.kv_heads = 2;
    });
    cases.push_back({"documents_" + kind, with(base, documents(edges, edges))});
    cases.push_back({"documents_alibi_" + kind, with(with(base, documents(edges, edges)), slopes)});
    cases.push_back(
        {"documents_of_two_lengths_" + kind,
         with(base, documents({0, 10, 10, 80, 90, 218, 219, 219}, {0, 200, 264, 264, 265, 330, 460, 461}))});
    cases.push_back({"documents_empty_" + kind, with(base, documents({0, 0, 0, 5, 5}, {0, 0, 7, 7, 7}))});
    cases.push_back({"documents_one_" + kind, with(base, documents({0, 100}, {0, 100}))});
  }
  std::vector<int32_t> ones(131);
  for (size_t i = 0; i < ones.size(); ++i) ones[i] = static_cast<int32_t>(i);
  cases.push_back({"documents_of_one_token", with(square(1), documents(ones, ones))});
}

void add_scores(std::vector<Case>& cases) {
  const auto plain = [](int tokens, bool causal = true) {
    return with(square(tokens, 32, 1), [&](auto& p) {
      p.scale = 1;
      p.causal = causal;
    });
  };
  cases.push_back({"scores_equal", plain(300), 1, scores([](int) { return 2; })});
  cases.push_back({"scores_ascending", plain(300), 1, scores([](int j) { return j / 16.0; })});
  cases.push_back({"scores_descending", plain(300), 1, scores([](int j) { return -j / 64.0; })});
  cases.push_back(
      {"scores_one_dominates", plain(300), 1, scores([](int j) { return j == 77 ? 64 : j % 3; })});
  cases.push_back({"scores_sink", plain(300), 1, scores([](int j) { return j == 0 ? 1 : (j % 7) / 8.0; })});
  cases.push_back(
      {"scores_tied_at_threshold", plain(300, false), 1, scores([](int j) { return j < 4 ? 1 : 0; })});
  cases.push_back({"scores_large_and_equal", plain(300), 1, scores([](int) { return 8192; })});
  cases.push_back({"scores_thousands", with(square(300, 64), [](auto& p) { p.batch = 2; }), 1000});
  cases.push_back({"scores_near_equal", square(500), 0.001});
  // Thousands of equal keys within 1 of the largest score, by less than a place of a histogram's bin: whether
  // an estimate falls above or below them decides over some percent of the mass.
  for (int i = 0; i < 8; ++i) {
    const auto crowd = with(rectangle(70, 5000, false), [i](auto& p) {
      p.heads = p.kv_heads = 1;
      p.scale = 0.9985F + 0.0007F * static_cast<float>(i);
    });
    cases.push_back({"scores_crowd_" + std::to_string(i), crowd, 1,
                     scores([](int j) { return j == 700 ? 0 : -1.9921875; }), 8});
  }
}

void add_broken(std::vector<Case>& cases) {
  for (const float broken : {kNan, kInfinity, -kInfinity}) {
    const std::string name = std::isnan(broken) ? "nan" : broken > 0 ? "inf" : "minus_inf";
    const auto problem = with(square(230, 64, 2), [](auto& p) { p.kv_heads = 1; });
    cases.push_back({"query_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.query, p.q_tokens, 1, 70)[3] = broken;
                     }});
    cases.push_back({"key_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.key, p.k_tokens, 0, 150)[63] = broken;
                     }});
    cases.push_back({"value_" + name, problem, 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.value, p.k_tokens, 0, 10)[40] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 41)[0] = broken;
                     }});
    cases.push_back({"wide_value_" + name, square(140, 256, 1), 2, [broken](const auto& p, auto& in) {
                       token_of(p, in.value, p.k_tokens, 0, 30)[200] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 90)[100] = broken;
                     }});
    cases.push_back({"document_" + name,
                     with(problem,
                          [](auto& p) {
                            p.cu_q = p.cu_k = {0, 50, 120, 230};
                          }),
                     2, [broken](const auto& p, auto& in) {
                       token_of(p, in.key, p.k_tokens, 0, 60)[1] = broken;
                       token_of(p, in.value, p.k_tokens, 0, 119)[1] = broken;
                       token_of(p, in.query, p.q_tokens, 0, 120)[1] = broken;
                     }});
  }
  cases.push_back({"key_nan_far", with(square(300, 64, 1), [](auto& p) { p.slopes = {2}; }), 1,
                   [](const auto& p, auto& in) { token_of(p, in.key, p.k_tokens, 0, 20)[1] = kNan; }});
  cases.push_back({"all_nan", square(100), 1, [](const auto&, auto& in) {
                     for (auto* numbers : {&in.query, &in.key, &in.value}) {
                       std::fill(numbers->begin(), numbers->end(), kNan);
                     }
                   }});
  // Rows that see no key, and what their query holds does not matter.
  cases.push_back({"query_nan_without_keys", rectangle(100, 37), 2,
                   [](const auto& p, auto& in) { token_of(p, in.query, p.q_tokens, 0, 60)[3] = kNan; }});
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_shapes(cases);
  add_options(cases);
  add_scores(cases);
  add_broken(cases);
  return cases;
}

AttentionInputs inputs_of(const Case& c, ElementType type, unsigned seed = 1) {
  AttentionInputs inputs = normal_inputs(c.problem, c.spread, seed);
  if (c.edit) c.edit(c.problem, inputs);
  round_to(type, inputs);
  return inputs;
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

void expect_same_bits(const AttentionResult& a, const AttentionResult& b) {
  EXPECT_TRUE(same_bits(a.out, b.out)) << "out";
  EXPECT_TRUE(same_bits(a.tau, b.tau)) << "tau";
  EXPECT_TRUE(same_bits(a.mean_value, b.mean_value)) << "mean_value";
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

using TypedCase = std::tuple<ElementType, Case>;
class EntmaxAttentionCasesGpu : public testing::TestWithParam<TypedCase> {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }
};

TEST_P(EntmaxAttentionCasesGpu, AgreesWithItsDefinition) {
  const auto& [type, test_case] = GetParam();
  const AttentionProblem& p = test_case.problem;
  const AttentionInputs inputs = inputs_of(test_case, type);
  const AttentionReference reference = attention_reference(p, inputs);
  const AttentionRun run(type, p, inputs);
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
  const double grad = base.grad * test_case.condition + 4 * rounding;
  expect_close("grad_query", result.grad_query, reference.grad_query, grad + edge,
               0.3 * reference.grad_query_size);
  expect_close("grad_key", result.grad_key, reference.grad_key, grad + edge, 0.3 * reference.grad_key_size);
  expect_close("grad_value", result.grad_value, reference.grad_value, grad);
  EXPECT_EQ(first_nan_mismatch(result.mean_value, reference.mean_value), -1);
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

INSTANTIATE_TEST_SUITE_P(Table, EntmaxAttentionCasesGpu,
                         testing::Combine(testing::Values(ElementType::fp32, ElementType::bf16,
                                                          ElementType::fp16),
                                          testing::ValuesIn(all_cases())),
                         [](const auto& instance) {
                           return type_name(std::get<0>(instance.param)) + "_" +
                                  std::get<1>(instance.param).name;
                         });

const Case& mixed_case() {
  static const Case c = {"mixed", with(square(700, 64, 6), [](auto& p) {
                           p.kv_heads = 2;
                           p.slopes = {1, 0.1F, 0.01F, 0, 0, 0};
                           p.cu_q = p.cu_k = {0, 5, 333, 333, 700};
                         })};
  return c;
}

// What a loss scaler looks for.
TEST_P(EntmaxAttentionGpu, OutputGradientsThatAreNotFiniteShow) {
  const Case c = {"grad_out", square(230, 64, 2)};
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
  const AttentionRun first(GetParam(), mixed_case().problem, inputs);
  first.forward();
  first.backward();
  const AttentionResult expected = first.result();
  for (const uint8_t fill : {uint8_t{0x00}, uint8_t{0x3F}, uint8_t{0x7F}}) {
    const AttentionRun run(GetParam(), mixed_case().problem, inputs, fill);
    run.forward();
    run.backward();
    expect_same_bits(run.result(), expected);
  }
  for (int repeat = 0; repeat < 30; ++repeat) {
    first.poison();
    first.forward();
    first.backward();
    const AttentionResult again = first.result();
    expect_same_bits(again, expected);
    ASSERT_EQ(again.tile_mask, expected.tile_mask);
    ASSERT_FALSE(HasFailure()) << "repeat " << repeat;
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
    const auto [forward, backward] = bytes(16384);
    const auto [forward_twice, backward_twice] = bytes(32768);
    EXPECT_LE(forward_twice, 2 * forward + 4096);
    EXPECT_LE(backward_twice, 2 * backward + 4096);
  }
}

}  // namespace
}  // namespace asplash::test
