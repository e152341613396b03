#pragma once

namespace at {
class Tensor;
}

/// The element-wise parts of a decoder layer, with gradients that save inputs only.
namespace asplash::ops {

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467), in
/// x's type. x: [..., width]; weight: [width], x's type.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// silu(gate) * up (Shazeer 2020, arXiv 2002.05202). gate, up: equal shapes and types. Keeps gate and up for
/// the backward pass and nothing between.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's half-split convention:
/// with x = [a, b] split at head_dim / 2, [a cos - b sin, b cos + a sin].
/// x: [batch, tokens, heads, head_dim]; cosine, sine: [tokens, head_dim / 2], fp32 (fp64 for fp64 x).
/// Computed in their type, returned in x's type; differentiable in x.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine);

}  // namespace asplash::ops
