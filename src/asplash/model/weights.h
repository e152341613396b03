#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "asplash/model/language_model.h"
#include "asplash/model/model_config.h"

namespace asplash::model {

/// Matrices are [out, in]; undefined tensors are parts that the configuration does not have.
struct AttentionWeights {
  at::Tensor q_proj, k_proj, v_proj, o_proj;
  at::Tensor q_norm, k_norm;                       ///< [head_dim]
  at::Tensor temperature_beta, temperature_gamma;  ///< [nope_heads, width]
};

struct LayerWeights {
  at::Tensor input_norm, post_attention_norm;  ///< [width]
  AttentionWeights attention;
  at::Tensor gate_proj, up_proj, down_proj;
};

struct DecoderWeights {
  at::Tensor embeddings;  ///< [vocab, width]
  std::vector<LayerWeights> layers;
  at::Tensor norm;  ///< [width]
  at::Tensor head;  ///< [vocab, width]; tied: the same tensor as embeddings
};

/// Leaves that require grad, in `type` on `device`. Matrices are normal(0, init_std), those back into the
/// residual stream (o_proj, down_proj) normal(0, init_std / sqrt(2 layers)), norms 1, the query norm
/// qk_norm_init, temperatures 0; drawn on the CPU in fp32, in the order of named_parameters.
DecoderWeights initial_weights(const ModelConfig& config, const at::Device& device, at::ScalarType type,
                               uint64_t seed);

/// All weights by their Llama names, tied embeddings once.
std::vector<Parameter> named_parameters(const DecoderWeights& weights);

/// A layer with its projections in the type of the products; norms and temperatures stay as they are.
/// Differentiable: gradients come back in the parameters' own type.
LayerWeights cast_matrices(const LayerWeights& layer, at::ScalarType type);

}  // namespace asplash::model
