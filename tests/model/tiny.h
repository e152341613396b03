#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "asplash/model/language_model.h"

namespace asplash::test {

/// Two layers, grouped queries, width 16: everything there is, in milliseconds.
inline model::ModelConfig tiny_config(model::AttentionFunction function, model::PositionKind kind) {
  model::ModelConfig config;
  config.vocab_size = 29;
  config.width = 16;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.mlp_width = 24;
  // Large enough for scores that matter and some exact zeros under entmax.
  config.init_std = 0.4;
  config.positions.kind = kind;
  config.positions.slope_first = 0.5;
  config.attention.function = function;
  return config;
}

struct NamedConfig {
  std::string name;
  model::ModelConfig config;
};

/// What GoogleTest prints of a parameter.
inline void PrintTo(const NamedConfig& named, std::ostream* out) { *out << named.name; }

/// Each attention function with each kind of positions, and the options that go with some of them.
inline std::vector<NamedConfig> all_configs() {
  using model::AttentionFunction;
  using model::PositionKind;
  std::vector<NamedConfig> all;
  for (const auto& [function, function_name] :
       {std::pair(AttentionFunction::softmax, "softmax"), std::pair(AttentionFunction::entmax, "entmax")}) {
    for (const auto& [kind, kind_name] :
         {std::pair(PositionKind::rope, "rope"), std::pair(PositionKind::nope, "nope"),
          std::pair(PositionKind::alibi, "alibi"), std::pair(PositionKind::nape, "nape")}) {
      all.push_back({std::string(function_name) + "_" + kind_name, tiny_config(function, kind)});
    }
  }
  NamedConfig qk_norm{"entmax_rope_qk_norm_untied",
                      tiny_config(AttentionFunction::entmax, PositionKind::rope)};
  qk_norm.config.qk_norm = true;
  qk_norm.config.qk_norm_init = 1.7;
  qk_norm.config.tied_embeddings = false;
  qk_norm.config.head_dim = 6;
  all.push_back(qk_norm);
  for (const auto kind : {PositionKind::nope, PositionKind::nape}) {
    NamedConfig adaptive{kind == PositionKind::nope ? "asentmax_nope" : "asentmax_nape",
                         tiny_config(AttentionFunction::entmax, kind)};
    adaptive.config.attention.adaptive_temperature = true;
    adaptive.config.qk_norm = kind == PositionKind::nape;
    adaptive.config.attention.alpha = kind == PositionKind::nape ? 1.5 : 1.3;
    all.push_back(adaptive);
  }
  return all;
}

/// A decoder whose constant initial weights are disturbed, so that none hides a mistake.
inline std::unique_ptr<model::LanguageModel> disturbed_decoder(const model::ModelConfig& config,
                                                               at::ScalarType type,
                                                               const std::string& device = "cpu") {
  auto decoder = model::make_decoder(config, device, type, 5);
  const at::NoGradGuard no_grad;
  at::manual_seed(6);
  for (const model::Parameter& parameter : decoder->parameters()) {
    const bool norm = parameter.name.find("norm") != std::string::npos;
    const bool temperature = parameter.name.find("temperature") != std::string::npos;
    if (!norm && !temperature) continue;
    // beta and gamma of order one; more would make scores sharper than training does.
    const double size = norm ? 0.3 : 0.5 / std::sqrt(static_cast<double>(config.width));
    parameter.value.add_(
        (size * at::randn(parameter.value.sizes(), at::kDouble)).to(parameter.value.options()));
  }
  return decoder;
}

inline at::Tensor random_tokens(int64_t batch, int64_t tokens, int64_t vocab, int seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return at::randint(vocab, {batch, tokens}, at::kInt);
}

}  // namespace asplash::test
