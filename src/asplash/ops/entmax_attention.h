#pragma once

#include <optional>

namespace at {
class Tensor;
}

/// Alpha-entmax attention. The same functions are torch operators: asplash::entmax_attention,
/// asplash::entmax_attention_forward and asplash::entmax_attention_backward.
namespace asplash::ops {

struct EntmaxOptions {
  double alpha = 1.5;           ///< in (1, 2]; 2 is sparsemax, towards 1 softmax is approached
  std::optional<double> scale;  ///< factor of query . key; default 1/sqrt(head_dim)
  bool causal = true;           ///< aligned at the end: query i sees keys j <= i + (k_tokens - q_tokens)
};

/// Entmax attention, differentiable in query, key and value.
///
///     x_ij = scale * query_i . key_j - slope_h * |i + (k_tokens - q_tokens) - j|   (slope term: ALiBi only)
///     p_ij = [(alpha - 1) x_ij - tau_i]_+ ^ (1 / (alpha - 1)),   sum_j p_ij = 1
///     out_i = sum_j p_ij value_j
///
/// over the keys that query i may see (Peters, Niculae & Martins 2019, arXiv 1905.05702). tau is exact:
/// solved until the support is stable, not for a fixed number of steps.
///
/// query:         [batch, heads, q_tokens, head_dim]
/// key, value:    [batch, kv_heads, k_tokens, head_dim], heads % kv_heads == 0; query head h uses
///                key/value head h / (heads / kv_heads)
/// alibi_slopes:  [heads] fp32, >= 0, or nullptr: no position bias
/// cu_seqlens_q, cu_seqlens_k:
///                [documents + 1] int32, 0 = first <= ... <= last = tokens, both or neither (nullptr); batch
///                must be 1. Document d's queries see document d's keys only, aligned at its end
/// statistics:    if not nullptr, receives a fresh fp64 tensor [4] on the query's device (no gradient):
///                all-zero 64 x 64 tiles, tiles with at least one visible pair, sum of the support sizes,
///                rows that see a key. Callers add the tensors of several calls. Tiles count from each
///                document's first token.
/// Returns [batch, heads, q_tokens, head_dim] in query's dtype. Rows that see no key are zero, with zero
/// gradients.
///
/// fp32 and fp64 are computed as such, bf16 and fp16 in fp32 and rounded once; any strides; CPU or CUDA.
/// Memory is linear in tokens. The result is bitwise the same for any number of CPU threads. A non-finite
/// score makes its row NaN and no other; on the CPU a non-finite value or gradient reaches only where its
/// weight is not 0. A second derivative is refused. Throws c10::Error that names the argument for shapes,
/// dtypes, devices or values refused (the values of slopes on a GPU are not looked at; those of cu_seqlens
/// are, which synchronizes).
at::Tensor entmax_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const EntmaxOptions& options = {}, const at::Tensor* alibi_slopes = nullptr,
                            const at::Tensor* cu_seqlens_q = nullptr,
                            const at::Tensor* cu_seqlens_k = nullptr, at::Tensor* statistics = nullptr);

}  // namespace asplash::ops
