#include "asplash/checkpoint/hf_model_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "asplash/base/error.h"
#include "asplash/base/text.h"

namespace asplash::checkpoint {
namespace {

using Json = nlohmann::json;

/// Tokens, sizes: products of two of them fit into 64 bits.
constexpr int64_t kMaxSize = 1'000'000'000;

/// Bytes that are not UTF-8 do not stop a message that shows the value.
std::string dumped(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// The members of a JSON object; null counts as missing, as it does for transformers.
class Keys {
 public:
  Keys(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void refuse(const char* key, const std::string& reason) const {
    const Json* value = find(key);
    fail(where_, ": ", key, value ? " is " + shown(dumped(*value), 200) : " is missing", ": ", reason);
  }

  int64_t size(const char* key, std::optional<int64_t> otherwise = {}) const {
    const Json* value = find(key);
    if (!value && otherwise) return *otherwise;
    const bool fits = value && value->is_number_integer() && *value >= 1 && *value <= kMaxSize;
    if (!fits) refuse(key, str("must be an integer from 1 to ", kMaxSize));
    return value->get<int64_t>();
  }
  double positive(const char* key, double otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_number() || !(value->get<double>() > 0) || !std::isfinite(value->get<double>()))
      refuse(key, "must be a number above 0");
    return value->get<double>();
  }
  bool flag(const char* key) const {
    const Json* value = find(key);
    if (value && !value->is_boolean()) refuse(key, "must be true or false");
    return value && value->get<bool>();
  }
  std::string text(const char* key) const {
    const Json* value = find(key);
    if (value && !value->is_string()) refuse(key, "must be a text");
    return value ? value->get<std::string>() : "";
  }

 private:
  const Json& object_;
  std::string where_;
};

/// What the configuration class of an architecture assumes where a key is missing.
struct Architecture {
  const char* name;
  bool qk_norm;
  int64_t head_dim;  ///< 0: hidden_size / num_attention_heads
  int64_t context;
  std::vector<const char*> must_say;  ///< keys whose absence means a value that no one would expect
};

std::vector<Architecture> architectures() {
  return {{"LlamaForCausalLM", false, 0, 2048, {}},
          {"MistralForCausalLM", false, 0, 131072, {"sliding_window", "num_key_value_heads"}},
          {"Qwen3ForCausalLM", true, 128, 32768, {"num_key_value_heads"}}};
}

Architecture architecture_of(const Keys& keys) {
  const Json* list = keys.find("architectures");
  const bool one = list && list->is_array() && list->size() == 1 && list->front().is_string();
  if (!one) keys.refuse("architectures", "must name one architecture");
  const auto name = list->front().get<std::string>();
  std::string known;
  for (const Architecture& architecture : architectures()) {
    if (name == architecture.name) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  if (name == "AsplashForCausalLM") {
    keys.refuse("architectures",
                "that is a checkpoint of asplash itself, which its programs read without conversion");
  }
  keys.refuse("architectures", "asplash-convert knows " + known);
}

/// rope_theta, and that nothing else is done to the angles. transformers 5 writes both into rope_parameters.
double rope_theta(const Keys& keys) {
  double theta = keys.positive("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = keys.find(key);
    if (!value) continue;
    if (!value->is_object()) keys.refuse(key, "must be an object");
    const Keys inner(*value, keys.where() + ": " + key);
    const std::string type = inner.find("rope_type") ? inner.text("rope_type") : inner.text("type");
    if (type != "default") keys.refuse(key, "scaled rotary positions are not supported, only plain ones");
    theta = inner.positive("rope_theta", theta);
  }
  if (const Json* part = keys.find("partial_rotary_factor"); part && *part != 1.0)
    keys.refuse("partial_rotary_factor", "only heads that are rotated whole (1.0) are supported");
  return theta;
}

void refuse_sliding_windows(const Keys& keys, const Architecture& architecture) {
  // Qwen3 writes a window that it does not use.
  const bool used =
      architecture.qk_norm ? keys.flag("use_sliding_window") : keys.find("sliding_window") != nullptr;
  if (used) keys.refuse("sliding_window", "attention within a sliding window is not supported");
  const Json* types = keys.find("layer_types");
  if (!types) return;
  for (const Json& type : *types) {
    if (type != "full_attention") keys.refuse("layer_types", "every layer must be full_attention");
  }
}

void refuse_other_parts(const Keys& keys) {
  for (const char* key : {"attention_bias", "mlp_bias", "qkv_bias"}) {
    if (keys.flag(key)) keys.refuse(key, "projections with biases are not supported");
  }
  if (keys.find("quantization_config"))
    keys.refuse("quantization_config", "quantized weights are not supported, only F32, BF16 and F16");
  const std::string activation = keys.find("hidden_act") ? keys.text("hidden_act") : "silu";
  if (activation != "silu" && activation != "swish")
    keys.refuse("hidden_act", "only silu (SwiGLU) is supported");
}

std::vector<int64_t> ids_of(const Keys& keys, const char* key) {
  const Json* value = keys.find(key);
  if (!value) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<int64_t> ids;
  for (const Json& id : list) {
    const bool valid = id.is_number_integer() && id >= -1 && id <= kMaxSize;
    if (!valid) keys.refuse(key, "must be a token id or a list of them");
    if (id >= 0) ids.push_back(id.get<int64_t>());
  }
  return ids;
}

void check_heads(const Keys& keys, const model::ModelConfig& config) {
  if (config.heads % config.kv_heads != 0)
    keys.refuse("num_key_value_heads", str("must divide num_attention_heads (", config.heads, ")"));
  if (!keys.find("head_dim") && config.head_dim * config.heads != config.width)
    keys.refuse("head_dim", str("num_attention_heads (", config.heads, ") do not divide hidden_size (",
                                config.width, ")"));
  if (config.head_dim % 2 != 0 || config.head_dim > 256)
    fail(keys.where(), ": head_dim of ", config.head_dim, ": must be even and at most 256");
}

Json parse(const std::string& path, const std::string& text) {
  try {
    Json json = Json::parse(text);
    if (!json.is_object()) fail(path, ": must be a JSON object");
    return json;
  } catch (const Json::exception& error) {
    fail(path, ": not valid JSON: ", json_reason(error));
  }
}

}  // namespace

HuggingFaceModel parse_hugging_face_config(const std::string& path, const std::string& text) {
  const Json json = parse(path, text);
  const Keys keys(json, path);
  const Architecture architecture = architecture_of(keys);
  refuse_other_parts(keys);
  refuse_sliding_windows(keys, architecture);
  for (const char* key : architecture.must_say) {
    if (!json.contains(key)) keys.refuse(key, "must be written, if only as null");
  }

  HuggingFaceModel found;
  model::ModelConfig& config = found.config;
  config.vocab_size = keys.size("vocab_size");
  config.width = keys.size("hidden_size");
  config.layers = keys.size("num_hidden_layers");
  config.heads = keys.size("num_attention_heads");
  config.kv_heads = keys.size("num_key_value_heads", config.heads);
  config.head_dim =
      keys.size("head_dim", architecture.head_dim ? architecture.head_dim : config.width / config.heads);
  config.mlp_width = keys.size("intermediate_size");
  config.tied_embeddings = keys.flag("tie_word_embeddings");
  config.qk_norm = architecture.qk_norm;
  config.norm_eps = keys.positive("rms_norm_eps", 1e-6);
  config.init_std = keys.positive("initializer_range", 0.02);
  config.positions.kind = model::PositionKind::rope;
  config.positions.rope_theta = rope_theta(keys);
  config.attention.function = model::AttentionFunction::softmax;
  check_heads(keys, config);

  found.context = keys.size("max_position_embeddings", architecture.context);
  found.dtype = keys.find("torch_dtype") ? keys.text("torch_dtype") : keys.text("dtype");
  const std::vector<int64_t> bos = ids_of(keys, "bos_token_id");
  if (bos.size() > 1) keys.refuse("bos_token_id", "must be one token id");
  if (!bos.empty()) found.bos_id = bos.front();
  found.eos_ids = ids_of(keys, "eos_token_id");
  if (const Json* dropout = keys.find("attention_dropout"); dropout && *dropout != 0.0)
    found.notes.push_back("attention_dropout " + shown(dumped(*dropout)) +
                          " is not applied when training goes on");
  return found;
}

}  // namespace asplash::checkpoint
