#include "asplash/model/attention.h"

#include <ATen/ATen.h>

#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/pointwise.h"
#include "asplash/ops/softmax_attention.h"

namespace asplash::model {

using at::Tensor;

Attention::Attention(const ModelConfig& config, const at::Device& device, at::ScalarType compute_type)
    : config_(config),
      compute_type_(compute_type),
      wide_type_(compute_type == at::kDouble ? at::kDouble : at::kFloat) {
  const std::vector<double> slopes = config.alibi_slopes();
  if (!slopes.empty()) alibi_slopes_ = at::tensor(slopes, at::kDouble).to(device, at::kFloat);
}

/// [batch, tokens, heads * head_dim] -> [batch, tokens, heads, head_dim], normed and rotated in fp32.
Tensor Attention::heads_of(const Tensor& projected, const Tensor& norm, const Sequence& sequence) const {
  Tensor heads = projected.unflatten(2, {-1, config_.head_dim});
  if (norm.defined()) heads = ops::rms_norm(heads.to(wide_type_), norm, config_.norm_eps);
  if (sequence.cosine.defined()) heads = ops::rotary(heads, sequence.cosine, sequence.sine);
  return heads.to(compute_type_);
}

/// ASEntmax's factor of each query head, [batch, tokens, heads, 1]; 1 for the ALiBi heads in front. In fp32:
/// an error of the exponent gamma is one of all scores of the row.
Tensor Attention::temperature(const AttentionWeights& weights, const Tensor& x,
                              const Sequence& sequence) const {
  const Tensor beta = at::softplus(at::linear(x, weights.temperature_beta));
  const Tensor gamma = 2 * at::linear(x, weights.temperature_gamma).tanh();
  // log(i + 1)^gamma as a power of e: i is at least 1, so that log(i + 1) is positive, and gamma is within
  // (-2, 2), so that the factor is at most about 1 + 2.1 beta on the first token and 1 + beta log(i + 1)^2.
  const Tensor factor = 1 + beta * (gamma * sequence.log_log_position.unsqueeze(1)).exp();
  return at::constant_pad_nd(factor, {config_.alibi_heads(), 0}, 1.0).unsqueeze(3);
}

/// query [batch, heads, tokens, head_dim], key and value [batch, kv_heads, keys, head_dim].
Tensor Attention::weigh(const Tensor& query, const Tensor& key, const Tensor& value, const Sequence& sequence,
                        Tensor* statistics) const {
  const Tensor* slopes = alibi_slopes_.defined() ? &alibi_slopes_ : nullptr;
  const ops::Documents* documents = sequence.documents ? &*sequence.documents : nullptr;
  if (config_.attention.function == AttentionFunction::softmax) {
    return ops::softmax_attention(query, key, value, slopes, documents);
  }
  ops::EntmaxOptions options;
  options.alpha = config_.attention.alpha;
  options.implementation = config_.attention.implementation;
  const Tensor* cu_seqlens = documents ? &documents->cu_seqlens : nullptr;
  return ops::entmax_attention(query, key, value, options, slopes, cu_seqlens, cu_seqlens, statistics);
}

Tensor Attention::forward(const AttentionWeights& weights, const Tensor& x, const Sequence& sequence,
                          LayerCache* cache, Tensor* statistics, AttentionTensors* tensors) const {
  const Tensor input = x.to(compute_type_);
  Tensor query = heads_of(at::linear(input, weights.q_proj), weights.q_norm, sequence);
  Tensor key = heads_of(at::linear(input, weights.k_proj), weights.k_norm, sequence).transpose(1, 2);
  Tensor value = at::linear(input, weights.v_proj).unflatten(2, {-1, config_.head_dim}).transpose(1, 2);
  if (weights.temperature_beta.defined()) {
    query = (query * temperature(weights, x, sequence)).to(compute_type_);
  }
  query = query.transpose(1, 2);
  if (cache) {
    const int64_t tokens = x.size(1);
    cache->keys.narrow(2, sequence.first, tokens).copy_(key);
    cache->values.narrow(2, sequence.first, tokens).copy_(value);
    key = cache->keys.narrow(2, 0, sequence.first + tokens);
    value = cache->values.narrow(2, 0, sequence.first + tokens);
  }
  const Tensor mixed = weigh(query, key, value, sequence, statistics);
  if (tensors) *tensors = {query, key, value, mixed};
  return at::linear(mixed.transpose(1, 2).flatten(2), weights.o_proj);
}

}  // namespace asplash::model
