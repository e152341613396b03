#include "asplash/model/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "asplash/base/error.h"
#include "model/tiny.h"

namespace asplash::test {
namespace {

TEST(Weights, HaveLlamasNamesAndTheCountThatTheConfigurationSays) {
  for (const NamedConfig& named : all_configs()) {
    const auto decoder = model::make_decoder(named.config, "cpu", at::kFloat, 1);
    std::set<std::string> names;
    int64_t count = 0;
    for (const model::Parameter& parameter : decoder->parameters()) {
      EXPECT_TRUE(names.insert(parameter.name).second) << parameter.name;
      EXPECT_TRUE(parameter.value.is_leaf() && parameter.value.requires_grad()) << parameter.name;
      EXPECT_TRUE(parameter.value.is_contiguous()) << parameter.name;
      count += parameter.value.numel();
    }
    EXPECT_EQ(count, model::parameter_count(named.config)) << named.name;
    for (const char* name :
         {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
          "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.o_proj.weight",
          "model.layers.0.post_attention_layernorm.weight", "model.layers.1.mlp.down_proj.weight",
          "model.norm.weight"}) {
      EXPECT_EQ(names.count(name), 1U) << name;
    }
    EXPECT_EQ(names.count("lm_head.weight"), named.config.tied_embeddings ? 0U : 1U);
    EXPECT_EQ(names.count("model.layers.0.self_attn.q_norm.weight"), named.config.qk_norm ? 1U : 0U);
    EXPECT_EQ(names.count("model.layers.0.self_attn.temperature_beta.weight"),
              named.config.attention.adaptive_temperature ? 1U : 0U);
  }
}

TEST(Weights, ComeFromTheSeedAlone) {
  const model::ModelConfig config = all_configs()[0].config;
  const auto first = model::make_decoder(config, "cpu", at::kFloat, 3);
  at::manual_seed(99);
  at::randn({5});
  const auto again = model::make_decoder(config, "cpu", at::kBFloat16, 3);
  const auto other = model::make_decoder(config, "cpu", at::kFloat, 4);
  for (size_t i = 0; i < first->parameters().size(); ++i) {
    const model::Parameter& parameter = first->parameters()[i];
    EXPECT_TRUE(parameter.value.equal(again->parameters()[i].value)) << parameter.name;
    const bool drawn = parameter.name.find("norm") == std::string::npos;
    EXPECT_NE(parameter.value.equal(other->parameters()[i].value), drawn) << parameter.name;
  }
}

TEST(Weights, HaveTheStatedSpread) {
  model::ModelConfig config;
  config.vocab_size = 500;
  config.width = 128;
  config.layers = 8;
  config.heads = 4;
  config.qk_norm = true;
  config.qk_norm_init = 2;
  config.init_std = 0.05;
  config.tied_embeddings = false;
  const auto decoder = model::make_decoder(config, "cpu", at::kFloat, 1);
  for (const model::Parameter& parameter : decoder->parameters()) {
    const auto is = [&](const char* part) { return parameter.name.find(part) != std::string::npos; };
    const double mean = parameter.value.mean().item<double>();
    if (is("norm")) {
      EXPECT_EQ(mean, is("q_norm") ? 2 : 1) << parameter.name;
      EXPECT_EQ(parameter.value.std().item<double>(), 0) << parameter.name;
      continue;
    }
    const double std = is("o_proj") || is("down_proj") ? 0.05 / 4 : 0.05;
    EXPECT_NEAR(parameter.value.std().item<double>(), std, 0.03 * std) << parameter.name;
    EXPECT_NEAR(mean, 0, 0.05 * std) << parameter.name;
  }
}

}  // namespace
}  // namespace asplash::test
