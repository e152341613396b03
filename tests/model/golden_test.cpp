// The decoder against Hugging Face transformers: fixtures by scripts/golden/make_llama.py.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "asplash/base/files.h"
#include "asplash/checkpoint/safetensors.h"
#include "asplash/model/language_model.h"
#include "ops/numeric.h"

namespace asplash::test {
namespace {

using at::Tensor;

model::ModelConfig read_config(const std::string& path) {
  const auto json = nlohmann::json::parse(read_file(path));
  model::ModelConfig config;
  config.vocab_size = json.at("vocab_size");
  config.width = json.at("width");
  config.mlp_width = json.at("mlp_width");
  config.layers = json.at("layers");
  config.heads = json.at("heads");
  config.kv_heads = json.at("kv_heads");
  config.head_dim = json.at("head_dim");
  config.norm_eps = json.at("norm_eps");
  config.positions.rope_theta = json.at("rope_theta");
  config.tied_embeddings = json.at("tied_embeddings");
  config.qk_norm = json.at("qk_norm");
  config.attention.function = model::AttentionFunction::softmax;
  return config;
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsLossAndGradientsEqualHuggingFace) {
  const std::string stem = std::string(ASPLASH_SOURCE_DIR) + "/tests/model/golden/" + GetParam();
  const auto tensors = checkpoint::read_safetensors(stem + ".safetensors").tensors;
  const auto decoder = model::make_decoder(read_config(stem + ".json"), "cpu", at::kFloat, 1);
  {
    const at::NoGradGuard no_grad;
    for (const auto& parameter : decoder->parameters()) {
      const Tensor& value = tensors.at("weight/" + parameter.name);
      ASSERT_EQ(value.sizes(), parameter.value.sizes()) << parameter.name;
      parameter.value.copy_(value);
    }
  }
  const model::ModelInput input{tensors.at("tokens"), {}, 0};
  EXPECT_LT(relative_difference(decoder->logits(input), tensors.at("logits")), 1e-5);
  const Tensor loss = decoder->loss_sum(input, tensors.at("targets"));
  EXPECT_LT(relative_difference(loss, tensors.at("loss_sum")), 1e-5);
  loss.backward();
  size_t compared = 0;
  for (const auto& parameter : decoder->parameters()) {
    EXPECT_LT(relative_difference(parameter.value.grad(), tensors.at("gradient/" + parameter.name)), 1e-5)
        << parameter.name;
    ++compared;
  }
  EXPECT_EQ(4 + 2 * compared, tensors.size()) << "a weight of the fixture has no counterpart";
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::Values("llama", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace asplash::test
