#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/safetensors.h"
#include "asplash/model/language_model.h"

namespace asplash::test {

/// A model of Hugging Face transformers and what it computed; made by scripts/golden/make_llama.py.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name) {
    const std::string stem = std::string(ASPLASH_SOURCE_DIR) + "/tests/model/golden/" + name;
    tensors_ = checkpoint::read_safetensors(stem + ".safetensors").tensors;
    json_ = nlohmann::json::parse(read_file(stem + ".json"));
  }

  const at::Tensor& at(const std::string& name) const { return tensors_.at(name); }
  const nlohmann::json& json() const { return json_; }
  /// Tensors whose name begins with `prefix`.
  size_t count(const std::string& prefix) const {
    size_t count = 0;
    for (const auto& item : tensors_) count += item.first.rfind(prefix, 0) == 0 ? 1 : 0;
    return count;
  }

  /// Our decoder with the weights of the fixture.
  std::unique_ptr<model::LanguageModel> decoder() const {
    auto decoder = model::make_decoder(config(), "cpu", at::kFloat, 1);
    const at::NoGradGuard no_grad;
    for (const auto& [name, value] : decoder->parameters()) {
      const at::Tensor& weight = at("weight/" + name);
      if (weight.sizes() != value.sizes()) fail("weight/", name, " has another shape than the model's");
      value.copy_(weight);
    }
    if (decoder->parameters().size() != count("weight/")) fail("a weight of the fixture has no counterpart");
    return decoder;
  }

 private:
  model::ModelConfig config() const {
    model::ModelConfig config;
    config.vocab_size = json_.at("vocab_size");
    config.width = json_.at("width");
    config.mlp_width = json_.at("mlp_width");
    config.layers = json_.at("layers");
    config.heads = json_.at("heads");
    config.kv_heads = json_.at("kv_heads");
    config.head_dim = json_.at("head_dim");
    config.norm_eps = json_.at("norm_eps");
    config.positions.rope_theta = json_.at("rope_theta");
    config.tied_embeddings = json_.at("tied_embeddings");
    config.qk_norm = json_.at("qk_norm");
    config.attention.function = model::AttentionFunction::softmax;
    return config;
  }

  std::map<std::string, at::Tensor> tensors_;
  nlohmann::json json_;
};

}  // namespace asplash::test
