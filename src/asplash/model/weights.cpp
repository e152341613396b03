#include "asplash/model/weights.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "asplash/base/error.h"

namespace asplash::model {
namespace {

/// Makes leaves one after the other from one stream of random numbers.
class Initializer {
 public:
  Initializer(const at::Device& device, at::ScalarType type, uint64_t seed)
      : device_(device), type_(type), generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  at::Tensor normal(int64_t out, int64_t in, double std) {
    at::Tensor values = at::empty({out, in}, at::kFloat);
    return leaf(values.normal_(0, std, generator_));
  }
  at::Tensor constant(at::IntArrayRef sizes, double value) const {
    return leaf(at::full(sizes, value, at::kFloat));
  }

 private:
  at::Tensor leaf(const at::Tensor& values) const {
    return values.to(at::TensorOptions(device_).dtype(type_)).set_requires_grad(true);
  }

  at::Device device_;
  at::ScalarType type_;
  at::Generator generator_;
};

AttentionWeights initial_attention(const ModelConfig& c, Initializer& make, double residual_std) {
  AttentionWeights weights;
  weights.q_proj = make.normal(c.heads * c.head_dim, c.width, c.init_std);
  weights.k_proj = make.normal(c.kv_heads * c.head_dim, c.width, c.init_std);
  weights.v_proj = make.normal(c.kv_heads * c.head_dim, c.width, c.init_std);
  weights.o_proj = make.normal(c.width, c.heads * c.head_dim, residual_std);
  if (c.qk_norm) {
    weights.q_norm = make.constant({c.head_dim}, c.qk_norm_init);
    weights.k_norm = make.constant({c.head_dim}, 1.0);
  }
  if (c.attention.adaptive_temperature) {
    weights.temperature_beta = make.constant({c.nope_heads(), c.width}, 0.0);
    weights.temperature_gamma = make.constant({c.nope_heads(), c.width}, 0.0);
  }
  return weights;
}

/// Calls visit(name, tensor) for each weight there is, in the one order.
template <class Visit>
void visit_layer(const LayerWeights& layer, const std::string& prefix, Visit visit) {
  const AttentionWeights& attention = layer.attention;
  visit(prefix + "input_layernorm.weight", layer.input_norm);
  visit(prefix + "self_attn.q_proj.weight", attention.q_proj);
  visit(prefix + "self_attn.k_proj.weight", attention.k_proj);
  visit(prefix + "self_attn.v_proj.weight", attention.v_proj);
  visit(prefix + "self_attn.o_proj.weight", attention.o_proj);
  visit(prefix + "self_attn.q_norm.weight", attention.q_norm);
  visit(prefix + "self_attn.k_norm.weight", attention.k_norm);
  visit(prefix + "self_attn.temperature_beta.weight", attention.temperature_beta);
  visit(prefix + "self_attn.temperature_gamma.weight", attention.temperature_gamma);
  visit(prefix + "post_attention_layernorm.weight", layer.post_attention_norm);
  visit(prefix + "mlp.gate_proj.weight", layer.gate_proj);
  visit(prefix + "mlp.up_proj.weight", layer.up_proj);
  visit(prefix + "mlp.down_proj.weight", layer.down_proj);
}

}  // namespace

DecoderWeights initial_weights(const ModelConfig& c, const at::Device& device, at::ScalarType type,
                               uint64_t seed) {
  Initializer make(device, type, seed);
  const double residual_std = c.init_std / std::sqrt(2.0 * static_cast<double>(c.layers));
  DecoderWeights weights;
  weights.embeddings = make.normal(c.vocab_size, c.width, c.init_std);
  for (int64_t i = 0; i < c.layers; ++i) {
    LayerWeights layer;
    layer.input_norm = make.constant({c.width}, 1.0);
    layer.attention = initial_attention(c, make, residual_std);
    layer.post_attention_norm = make.constant({c.width}, 1.0);
    layer.gate_proj = make.normal(c.mlp_width, c.width, c.init_std);
    layer.up_proj = make.normal(c.mlp_width, c.width, c.init_std);
    layer.down_proj = make.normal(c.width, c.mlp_width, residual_std);
    weights.layers.push_back(std::move(layer));
  }
  weights.norm = make.constant({c.width}, 1.0);
  weights.head = c.tied_embeddings ? weights.embeddings : make.normal(c.vocab_size, c.width, c.init_std);
  return weights;
}

std::vector<Parameter> named_parameters(const DecoderWeights& weights) {
  std::vector<Parameter> parameters;
  const auto add = [&](const std::string& name, const at::Tensor& value) {
    if (value.defined()) parameters.push_back({name, value});
  };
  add("model.embed_tokens.weight", weights.embeddings);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    visit_layer(weights.layers[i], str("model.layers.", i, "."), add);
  }
  add("model.norm.weight", weights.norm);
  if (!weights.head.is_same(weights.embeddings)) add("lm_head.weight", weights.head);
  return parameters;
}

LayerWeights cast_matrices(const LayerWeights& layer, at::ScalarType type) {
  LayerWeights out = layer;
  AttentionWeights& attention = out.attention;
  for (at::Tensor* matrix : {&attention.q_proj, &attention.k_proj, &attention.v_proj, &attention.o_proj,
                             &out.gate_proj, &out.up_proj, &out.down_proj}) {
    *matrix = matrix->to(type);
  }
  return out;
}

}  // namespace asplash::model
