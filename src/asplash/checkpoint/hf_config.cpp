#include "asplash/checkpoint/hf_config.h"

#include <nlohmann/json.hpp>

#include "asplash/base/version.h"

namespace asplash::checkpoint {
namespace {

using Json = nlohmann::ordered_json;
using model::AttentionFunction;
using model::PositionKind;

Json own_keys(const model::ModelConfig& config) {
  const bool entmax = config.attention.function == AttentionFunction::entmax;
  Json attention = {{"function", entmax ? "entmax" : "softmax"}};
  if (entmax) attention["alpha"] = config.attention.alpha;
  attention["adaptive_temperature"] = config.attention.adaptive_temperature;
  return {{"version", version()},
          {"attention", attention},
          {"qk_norm", config.qk_norm},
          {"positions", {{"kind", name_of(config.positions.kind)}, {"alibi_slopes", config.alibi_slopes()}}}};
}

}  // namespace

std::string hugging_face_config(const model::ModelConfig& given, int64_t context, int64_t bos_id,
                                int64_t eos_id, const std::string& dtype) {
  const model::ModelConfig config = given.resolved();
  const bool llama = config.attention.function == AttentionFunction::softmax &&
                     config.positions.kind == PositionKind::rope && !config.attention.adaptive_temperature;
  const char* architecture = !llama           ? "AsplashForCausalLM"
                             : config.qk_norm ? "Qwen3ForCausalLM"
                                              : "LlamaForCausalLM";
  const char* type = !llama ? "asplash" : config.qk_norm ? "qwen3" : "llama";
  Json json = {{"architectures", {architecture}},
               {"model_type", type},
               {"hidden_size", config.width},
               {"intermediate_size", config.mlp_width},
               {"num_hidden_layers", config.layers},
               {"num_attention_heads", config.heads},
               {"num_key_value_heads", config.kv_heads},
               {"head_dim", config.head_dim},
               {"vocab_size", config.vocab_size},
               {"max_position_embeddings", context},
               {"hidden_act", "silu"},
               {"rms_norm_eps", config.norm_eps},
               {"tie_word_embeddings", config.tied_embeddings},
               {"attention_bias", false},
               {"attention_dropout", 0.0},
               {"mlp_bias", false},
               {"initializer_range", config.init_std},
               {"torch_dtype", dtype}};
  if (config.positions.kind == PositionKind::rope) json["rope_theta"] = config.positions.rope_theta;
  if (bos_id >= 0) json["bos_token_id"] = bos_id;
  if (eos_id >= 0) json["eos_token_id"] = eos_id;
  json["asplash"] = own_keys(config);
  return json.dump(2) + "\n";
}

}  // namespace asplash::checkpoint
