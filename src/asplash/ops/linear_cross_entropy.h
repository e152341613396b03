#pragma once

#include <cstdint>

namespace at {
class Tensor;
}

/// The output projection and the cross-entropy in one: for long sequences and large vocabularies the logits
/// would be the largest tensor of a training step, so they exist for a chunk of rows at a time only.
namespace asplash::ops {

/// Targets of this value count neither in the loss nor in its gradient (data::kIgnoredTarget).
constexpr int64_t kIgnoredTarget = -100;

/// Sum over rows of -log softmax(hidden weight^T)[target]: a scalar, fp32 (fp64 for fp64 hidden).
///
/// hidden:  [rows, width], the type of the products (fp32, bf16, fp64)
/// weight:  [vocab, width], fp32 or fp64; cast to hidden's type for the products
/// targets: [rows] int32 or int64; kIgnoredTarget rows do not count
///
/// Differentiable once in hidden and weight: their gradients are computed chunk by chunk in the forward pass
/// (weight's accumulated in weight's type) and scaled by the incoming gradient in the backward pass.
/// Log-sum-exp is in fp32 (fp64). A target outside [0, vocab) is refused on the CPU (asplash::Error); on
/// CUDA, where looking would cost a synchronization, it makes the loss NaN. chunk_rows: 0 for
/// loss_chunk_rows().
at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& targets, int64_t chunk_rows = 0);

/// -log softmax(hidden weight^T)[target] of each row, [rows] fp32 (fp64), 0 for ignored rows. No gradient.
at::Tensor linear_cross_entropy_rows(const at::Tensor& hidden, const at::Tensor& weight,
                                     const at::Tensor& targets, int64_t chunk_rows = 0);

/// Rows whose fp32 logits are held at a time: what fits in the cache of a CPU, in 256 MiB on a GPU.
int64_t loss_chunk_rows(int64_t vocab, bool cuda);

}  // namespace asplash::ops
