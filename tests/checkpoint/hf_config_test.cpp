#include "asplash/checkpoint/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace asplash::checkpoint {
namespace {

using model::AttentionFunction;
using model::PositionKind;

model::ModelConfig llama() {
  model::ModelConfig config;
  config.vocab_size = 320;
  config.width = 64;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.mlp_width = 128;
  config.attention.function = AttentionFunction::softmax;
  config.positions.kind = PositionKind::rope;
  config.positions.rope_theta = 50000;
  return config;
}

nlohmann::json json_of(const model::ModelConfig& config) {
  return nlohmann::json::parse(hugging_face_config(config, 512, 1, -1));
}

TEST(HuggingFaceConfig, SaysLlamaWhereItIsOne) {
  const auto json = json_of(llama());
  EXPECT_EQ(json["architectures"], nlohmann::json({"LlamaForCausalLM"}));
  EXPECT_EQ(json["model_type"], "llama");
  EXPECT_EQ(json["hidden_size"], 64);
  EXPECT_EQ(json["intermediate_size"], 128);
  EXPECT_EQ(json["num_key_value_heads"], 2);
  EXPECT_EQ(json["head_dim"], 16);
  EXPECT_EQ(json["max_position_embeddings"], 512);
  EXPECT_EQ(json["rope_theta"], 50000);
  EXPECT_EQ(json["tie_word_embeddings"], true);
  EXPECT_EQ(json["bos_token_id"], 1);
  EXPECT_FALSE(json.contains("eos_token_id"));
}

TEST(HuggingFaceConfig, SaysQwen3WithQkNorm) {
  auto config = llama();
  config.qk_norm = true;
  EXPECT_EQ(json_of(config)["architectures"], nlohmann::json({"Qwen3ForCausalLM"}));
}

TEST(HuggingFaceConfig, HasItsOwnNameOtherwise) {
  auto config = llama();
  config.attention.function = AttentionFunction::entmax;
  config.positions.kind = PositionKind::nape;
  const auto json = json_of(config);
  EXPECT_EQ(json["architectures"], nlohmann::json({"AsplashForCausalLM"}));
  EXPECT_FALSE(json.contains("rope_theta"));
  EXPECT_EQ(json["asplash"]["attention"]["alpha"], 1.5);
  EXPECT_EQ(json["asplash"]["positions"]["kind"], "nape");
  EXPECT_EQ(json["asplash"]["positions"]["alibi_slopes"].size(), 4u);
  auto other = llama();
  other.positions.kind = PositionKind::nope;
  EXPECT_EQ(json_of(other)["model_type"], "asplash");
}

}  // namespace
}  // namespace asplash::checkpoint
