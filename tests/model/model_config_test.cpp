#include "asplash/model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "asplash/base/error.h"
#include "asplash/config/config.h"
#include "asplash/model/memory_estimate.h"

namespace asplash::test {
namespace {

using model::ModelConfig;

/// The problem that reading gives, or "" where there is none.
std::string problem(const std::string& yaml) {
  ModelConfig config;
  try {
    config::load_text(yaml, "test.yaml", {}, config::describing(config));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_problem(const std::string& yaml, const std::string& part) {
  const std::string seen = problem(yaml);
  EXPECT_NE(seen.find(part), std::string::npos) << yaml << "\nseen: " << seen;
}

TEST(ModelConfig, DefaultsAreValidAndPrinted) {
  EXPECT_EQ(problem(""), "");
  ModelConfig config, read;
  config.positions.kind = model::PositionKind::nape;
  config.positions.slopes = model::SlopeKind::list;
  config.positions.slope_list = {0.5, 0.25, 0.125, 1, 2, 3};
  config.attention.adaptive_temperature = true;
  config::load_text(config::print(config::describing(config)), "printed", {}, config::describing(read));
  EXPECT_TRUE(config::differences(config::describing(config), config::describing(read)).empty());
}

TEST(ModelConfig, ContradictionsAreNamed) {
  expect_problem("heads: 7", "heads");
  expect_problem("kv_heads: 5", "kv_heads");
  expect_problem("head_dim: 33", "must be even for rope");
  expect_problem("head_dim: 300", "head_dim");
  expect_problem("layers: 0", "layers");
  expect_problem("heads: 0", "heads");
  expect_problem("norm_eps: 0", "norm_eps");
  expect_problem("attention: {alpha: 1}", "alpha");
  expect_problem("attention: {alpha: 2.5}", "alpha");
  expect_problem("attention: {adaptive_temperature: true}", "adaptive_temperature");
  expect_problem("positions: {kind: alibi}\nattention: {adaptive_temperature: true}", "adaptive_temperature");
  expect_problem("positions: {kind: nape, alibi_share: 0.01}", "alibi_share");
  expect_problem("positions: {kind: nape, alibi_share: 0.99}", "alibi_share");
  expect_problem("positions: {kind: alibi, slopes: list, slope_list: [1, 2]}",
                 "each of the 12 ALiBi heads, got 2");
  expect_problem("positions: {slope_list: [1, 2]}", "not used");
  expect_problem("positions: {kind: alibi, slope_ratio: 1.5}", "slope_ratio");
  for (const char* kind : {"nape", "nope", "alibi"})
    expect_problem(str("positions: {kind: ", kind, ", rope_theta: 1e5}"), "needs kind: rope");
  for (const char* key : {"slope_first: 1", "slope_ratio: 0.5", "slope_list: [1]"}) {
    expect_problem(str("positions: {kind: alibi, slopes: reciprocal, ", key, "}"),
                   "not used: it needs slopes");
    expect_problem(str("positions: {kind: rope, ", key, "}"), "not used: it needs kind: alibi or nape");
  }
  expect_problem("positions: {kind: alibi, alibi_share: 0.5}", "needs kind: nape");
  expect_problem("positions: {kind: nope, slopes: geometric}", "needs kind: alibi or nape");
  expect_problem("qk_norm_init: 2", "needs qk_norm: true");
  expect_problem("attention: {function: softmax, alpha: 1.2}", "needs function: entmax");
  EXPECT_EQ(problem("qk_norm_init: 2\nqk_norm: true"), "");
  expect_problem("positions: {kind: rotary}", "rope");
  EXPECT_EQ(problem("attention: {alpha: 2}"), "");
  EXPECT_EQ(problem("heads: 7\nhead_dim: 64"), "");
  EXPECT_EQ(problem("positions: {kind: nope}\nhead_dim: 33\nattention: {adaptive_temperature: true}"), "");
}

TEST(ModelConfig, ZerosStandForWhatIsDocumented) {
  ModelConfig config;
  config.width = 512;
  config.heads = 8;
  const ModelConfig full = config.resolved();
  EXPECT_EQ(full.kv_heads, 8);
  EXPECT_EQ(full.head_dim, 64);
  EXPECT_EQ(full.mlp_width, 1408);
  EXPECT_EQ(full.resolved().mlp_width, 1408);
  config.width = 768;
  EXPECT_EQ(config.resolved().mlp_width, 2048);
}

TEST(ModelConfig, Slopes) {
  ModelConfig config;
  config.heads = 4;
  EXPECT_TRUE(config.alibi_slopes().empty());
  config.positions.kind = model::PositionKind::nope;
  EXPECT_TRUE(config.alibi_slopes().empty());
  EXPECT_EQ(config.nope_heads(), 4);
  config.positions.kind = model::PositionKind::nape;
  EXPECT_EQ(config.alibi_slopes(), (std::vector<double>{1, 0.5, 0, 0}));
  EXPECT_EQ(config.nope_heads(), 2);
  config.positions.kind = model::PositionKind::alibi;
  config.positions.slopes = model::SlopeKind::reciprocal;
  EXPECT_EQ(config.alibi_slopes(), (std::vector<double>{1, 1.0 / 2, 1.0 / 3, 1.0 / 4}));
  config.positions.slopes = model::SlopeKind::list;
  EXPECT_THROW(config.alibi_slopes(), Error);
  config.positions.slope_list = {4, 3, 2, 1};
  EXPECT_EQ(config.alibi_slopes(), (std::vector<double>{4, 3, 2, 1}));
}

/// The 34 M parameter model of the benchmarks.
ModelConfig small_config() {
  ModelConfig config;
  config.vocab_size = 16384;
  config.width = 512;
  config.layers = 8;
  config.heads = 8;
  config.mlp_width = 1408;
  return config;
}

TEST(ModelConfig, ParametersAndFlops) {
  const ModelConfig config = small_config();
  const int64_t layer = 4 * 512 * 512 + 3 * 512 * 1408 + 2 * 512;
  EXPECT_EQ(model::parameter_count(config), 16384 * 512 + 8 * layer + 512);
  const int64_t matrices = model::parameter_count(config) - 17 * 512;
  EXPECT_EQ(model::train_flops_per_token(config, 2048),
            6.0 * static_cast<double>(matrices) + 6.0 * 8 * 8 * 64 * 2048);
  ModelConfig untied = config;
  untied.tied_embeddings = false;
  EXPECT_EQ(model::parameter_count(untied) - model::parameter_count(config), 16384 * 512);
  EXPECT_EQ(model::train_flops_per_token(untied, 2048), model::train_flops_per_token(config, 2048));
}

TEST(MemoryEstimate, GrowsWithWhatItDependsOn) {
  const ModelConfig config = small_config();
  const int64_t parameters = model::parameter_count(config);
  const auto base = model::estimate_memory(config, 8, 2048, true, true);
  EXPECT_EQ(base.weights, 6 * parameters);
  EXPECT_EQ(base.gradients, 4 * parameters);
  EXPECT_EQ(base.optimizer, 8 * parameters);
  EXPECT_EQ(base.total(), base.weights + base.gradients + base.optimizer + base.activations + base.logits);
  EXPECT_EQ(model::estimate_memory(config, 16, 2048, true, true).activations, 2 * base.activations);
  EXPECT_EQ(model::estimate_memory(config, 4, 4096, true, true).activations, base.activations);
  EXPECT_GT(model::estimate_memory(config, 8, 2048, false, true).activations, base.activations);
  EXPECT_LT(model::estimate_memory(config, 8, 2048, false, true).weights, base.weights);
  // The kernels of entmax attention keep a row's support: a word, and one for each of 96 keys.
  ModelConfig kernels = config, reference = config;
  kernels.attention.function = reference.attention.function = model::AttentionFunction::entmax;
  reference.attention.implementation = ops::EntmaxImplementation::reference;
  EXPECT_EQ(model::estimate_memory(kernels, 8, 2048, true, true).activations -
                model::estimate_memory(reference, 8, 2048, true, true).activations,
            8 * 2048 * config.layers * config.heads * 4 * 97);
  // The logits of 16384 tokens alone would be 1 GiB in fp32.
  EXPECT_LT(base.logits, int64_t{1} << 30);
}

}  // namespace
}  // namespace asplash::test
