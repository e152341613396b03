// What transformers itself wrote and computed (scripts/golden/make_llama.py), read as a Hugging Face folder.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "asplash/checkpoint/hf_config.h"
#include "asplash/checkpoint/hf_model_config.h"
#include "asplash/checkpoint/hf_weights.h"
#include "asplash/checkpoint/safetensors.h"
#include "model/golden.h"
#include "ops/numeric.h"
#include "temporary_folder.h"

namespace asplash::checkpoint {
namespace {

using Json = nlohmann::json;
using test::GoldenModel;

constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbeddings = "model.embed_tokens.weight";

std::string config_of(const std::string& name) {
  return read_file(std::string(ASPLASH_SOURCE_DIR) + "/tests/model/golden/" + name + ".config.json");
}

NamedTensors weights_of(const GoldenModel& golden) {
  const auto decoder = golden.decoder();
  NamedTensors weights;
  for (const auto& parameter : decoder->parameters())
    weights.emplace_back(parameter.name, golden.at("weight/" + parameter.name));
  return weights;
}

std::unique_ptr<model::LanguageModel> new_decoder(const std::string& name) {
  return model::make_decoder(parse_hugging_face_config("config.json", config_of(name)).config, "cpu",
                             at::kFloat, /*seed=*/1);
}

std::string error_of(const std::string& folder, const std::string& name) {
  try {
    load_hugging_face_weights(folder, *new_decoder(name));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class HuggingFaceImport : public testing::TestWithParam<const char*> {
 protected:
  void expect_transformers_logits(const std::string& folder, double tolerance = 1e-5) const {
    const auto decoder = new_decoder(GetParam());
    load_hugging_face_weights(folder, *decoder);
    EXPECT_LT(test::relative_difference(decoder->logits({golden_.at("tokens"), {}}), golden_.at("logits")),
              tolerance);
  }

  const GoldenModel golden_{GetParam()};
  TemporaryFolder folder_;
};

TEST_P(HuggingFaceImport, GivesTransformersLogits) {
  write_safetensors(folder_ / "model.safetensors", weights_of(golden_), {{"format", "pt"}});
  expect_transformers_logits(folder_.path());
}

TEST_P(HuggingFaceImport, ReadsShards) {
  NamedTensors shards[2];
  Json map;
  for (const auto& [name, tensor] : weights_of(golden_)) {
    const size_t shard = map.size() % 2;
    shards[shard].emplace_back(name, tensor);
    map[name] = shard == 0 ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  }
  write_safetensors(folder_ / "model-00001-of-00002.safetensors", shards[0], {});
  write_safetensors(folder_ / "model-00002-of-00002.safetensors", shards[1], {});
  write_file_atomically(folder_ / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  expect_transformers_logits(folder_.path());
}

TEST_P(HuggingFaceImport, NarrowTypesBecomeFp32Exactly) {
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    NamedTensors narrow;
    for (const auto& [name, tensor] : weights_of(golden_)) narrow.emplace_back(name, tensor.to(type));
    write_safetensors(folder_ / "model.safetensors", narrow, {});
    const auto decoder = new_decoder(GetParam());
    load_hugging_face_weights(folder_.path(), *decoder);
    for (size_t i = 0; i < narrow.size(); ++i)
      EXPECT_TRUE(at::equal(decoder->parameters()[i].value, narrow[i].second.to(at::kFloat)));
    expect_transformers_logits(folder_.path(), 0.05);
    // And back: nothing is lost.
    const NamedTensors again = cast_weights(*decoder, type == at::kHalf ? "float16" : "bfloat16");
    for (size_t i = 0; i < narrow.size(); ++i) EXPECT_TRUE(at::equal(again[i].second, narrow[i].second));
  }
}

/// What we say of the model is what transformers said.
TEST_P(HuggingFaceImport, OurConfigSaysTheSame) {
  const HuggingFaceModel found = parse_hugging_face_config("config.json", config_of(GetParam()));
  const Json theirs = Json::parse(config_of(GetParam()));
  const Json ours = Json::parse(hugging_face_config(found.config, found.context, -1, -1));
  for (const char* key :
       {"architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
        "hidden_act", "rms_norm_eps", "tie_word_embeddings", "attention_bias", "rope_theta"})
    EXPECT_EQ(ours.at(key), theirs.at(key)) << key;
}

INSTANTIATE_TEST_SUITE_P(Models, HuggingFaceImport, testing::Values("llama", "llama_tied", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

TEST(HuggingFaceWeights, AHeadBesideTiedEmbeddingsMustEqualThem) {
  const GoldenModel golden("llama_tied");
  const TemporaryFolder folder;
  NamedTensors weights = weights_of(golden);
  weights.emplace_back(kHead, golden.at(std::string("weight/") + kEmbeddings).clone());
  weights.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::ones({3}));
  write_safetensors(folder / "model.safetensors", weights, {});
  EXPECT_EQ(error_of(folder.path(), "llama_tied"), "");
  weights[weights.size() - 2].second[3][1] += 0.5;
  write_safetensors(folder / "model.safetensors", weights, {});
  EXPECT_NE(
      error_of(folder.path(), "llama_tied")
          .find("tensor lm_head.weight differs from model.embed_tokens.weight, though config.json says"),
      std::string::npos);
  // Untied, it is a tensor like others, and must be there.
  EXPECT_NE(error_of(folder.path(), "llama"), "");
}

TEST(HuggingFaceWeights, WhatDoesNotFitTheTypeIsNamed) {
  const auto decoder = GoldenModel("llama").decoder();
  {
    const at::NoGradGuard no_grad;
    decoder->parameters().front().value.view({-1})[0].fill_(1e6);
  }
  EXPECT_NO_THROW(cast_weights(*decoder, "bfloat16"));
  try {
    cast_weights(*decoder, "float16");
    ADD_FAILURE() << "1e6 is no float16";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what())
                  .find("tensor " + decoder->parameters().front().name +
                        " holds values that are not finite as float16"),
              std::string::npos)
        << error.what();
  }
}

TEST(HuggingFaceModelConfig, ReadsRopeParametersAsTransformers5WritesThem) {
  Json json = Json::parse(config_of("llama"));
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 250000.0}};
  EXPECT_EQ(parse_hugging_face_config("c", json.dump()).config.positions.rope_theta, 250000.0);
  json["rope_parameters"]["rope_type"] = "yarn";
  EXPECT_THROW(parse_hugging_face_config("c", json.dump()), Error);
}

TEST(HuggingFaceModelConfig, MissingKeysHaveTransformersDefaults) {
  Json json = Json::parse(config_of("llama"));
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta", "head_dim"}) json.erase(key);
  const HuggingFaceModel found = parse_hugging_face_config("c", json.dump());
  EXPECT_EQ(found.config.kv_heads, 4);
  EXPECT_EQ(found.config.head_dim, 6);
  EXPECT_EQ(found.config.norm_eps, 1e-6);
  EXPECT_EQ(found.config.positions.rope_theta, 10000);
}

}  // namespace
}  // namespace asplash::checkpoint
