#pragma once

namespace at {
class Tensor;
}

namespace asplash::ops {

/// Causal softmax attention with explicit masks that exist for some query rows at a time: exact ALiBi biases
/// and queries aligned with the end of longer keys, where no fused causal kernel applies.
///
/// query: [batch, heads, q_tokens, head_dim]; key, value: [batch, heads, k_tokens, head_dim]
/// alibi_slopes: [heads], or nullptr. scale multiplies the scores.
/// Differentiable in query, key and value; on the CPU the backward pass makes the masks again, so memory is
/// linear in tokens.
at::Tensor masked_causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                   const at::Tensor* alibi_slopes, double scale);

}  // namespace asplash::ops
