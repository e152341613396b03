#pragma once

#include <ATen/core/Tensor.h>

#include "asplash/model/attention_observer.h"
#include "asplash/model/model_config.h"
#include "asplash/model/sequence.h"
#include "asplash/model/weights.h"

namespace asplash::model {

/// Keys and values of one layer, [batch, kv_heads, capacity, head_dim].
struct LayerCache {
  at::Tensor keys, values;
};

/// One layer's attention: projections, QK-norm, positions, adaptive temperature, softmax or entmax.
class Attention {
 public:
  Attention(const ModelConfig& config, const at::Device& device, at::ScalarType compute_type);

  /// x: [batch, tokens, width], the normed residual stream, fp32 (fp64); weights by cast_matrices. Returns
  /// [batch, tokens, width] in the compute type.
  /// cache: if not nullptr, keys and values are put there behind the first sequence.first, and all are seen.
  /// statistics: if not nullptr, receives entmax's [ops::kEntmaxStatistics].
  /// tensors: if not nullptr, receives what the operator was given and returned.
  at::Tensor forward(const AttentionWeights& weights, const at::Tensor& x, const Sequence& sequence,
                     LayerCache* cache, at::Tensor* statistics, AttentionTensors* tensors) const;

 private:
  at::Tensor heads_of(const at::Tensor& projected, const at::Tensor& norm, const Sequence& sequence) const;
  at::Tensor temperature(const AttentionWeights& weights, const at::Tensor& x,
                         const Sequence& sequence) const;
  at::Tensor weigh(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                   const Sequence& sequence, at::Tensor* statistics) const;

  ModelConfig config_;
  at::ScalarType compute_type_;
  at::ScalarType wide_type_;  ///< of norms and positions: fp32, or fp64 where all is
  at::Tensor alibi_slopes_;   ///< [heads] fp32, undefined without ALiBi
};

}  // namespace asplash::model
