#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace at {
class Tensor;
}

/// Alpha-entmax attention. The same functions are torch operators: asplash::entmax_attention,
/// asplash::entmax_attention_forward and asplash::entmax_attention_backward.
namespace asplash::ops {

/// automatic: on the CPU tiled loops; on CUDA the kernels, and tensor operations for fp64 and for GPUs before
/// Ampere (with one warning). reference: tensor operations on any device: slow, to hold the others against.
enum class EntmaxImplementation { automatic, reference };

/// As the operators and configurations have it: "auto", "reference".
constexpr const char* name_of(EntmaxImplementation implementation) {
  return implementation == EntmaxImplementation::reference ? "reference" : "auto";
}

/// Numbers in the statistics of a call: all-zero 64 x 64 tiles; tiles with at least one visible pair; sum of
/// the support sizes; rows that see a key; then how many of these rows had their final threshold after 1, 2,
/// 3, and 4 or more passes over their scores (CUDA kernels only, else 0). Tiles count from each document's
/// first token.
constexpr int64_t kEntmaxStatistics = 8;

/// Keys with weight of a row that the CUDA kernels keep for their backward, in the mean; 4 bytes each, 16-bit
/// types only.
constexpr int64_t kEntmaxSupport = 96;
/// And words of a head besides.
constexpr int64_t kEntmaxSupportOfHead = 4;

struct EntmaxOptions {
  double alpha = 1.5;           ///< in (1, 2]; 2 is sparsemax, towards 1 softmax (docs/python.md: rounding)
  std::optional<double> scale;  ///< factor of query . key; default 1/sqrt(head_dim)
  bool causal = true;           ///< aligned at the end: query i sees keys j <= i + (k_tokens - q_tokens)
  EntmaxImplementation implementation = EntmaxImplementation::automatic;
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
/// statistics:    if not nullptr, receives a fresh fp64 tensor [kEntmaxStatistics] on the query's device (no
///                gradient). Callers add the tensors of several calls.
/// Returns [batch, heads, q_tokens, head_dim] in query's dtype. Rows that see no key are zero, with zero
/// gradients. Output and gradients lie in memory as query, key and value do, tokens outside heads or inside.
///
/// fp32 and fp64 are computed as such, bf16 and fp16 in fp32 and rounded once (by the CUDA kernels with
/// weights rounded, too); CPU or CUDA. Any strides; the CUDA kernels copy what has gaps within heads or is
/// not aligned to 16 bytes. They take the head sizes that has_entmax_kernels tells of and no others, wait for
/// nothing and may be captured in a CUDA graph. Memory is linear in tokens. The result is bitwise the same
/// from run to run and for any number of CPU threads. A non-finite score makes its row NaN and no other; on
/// the CPU a non-finite value or gradient reaches only where its weight is not 0. A second derivative is
/// refused. Throws c10::Error that names the argument for shapes, dtypes, devices or values refused. Values
/// on a GPU are not looked at, but the reference reads cu_seqlens, which synchronizes.
at::Tensor entmax_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const EntmaxOptions& options = {}, const at::Tensor* alibi_slopes = nullptr,
                            const at::Tensor* cu_seqlens_q = nullptr,
                            const at::Tensor* cu_seqlens_k = nullptr, at::Tensor* statistics = nullptr);

/// Whether CUDA tensors of this head size are served by kernels, or (a build without CUDA parts) by the
/// reference.
bool has_entmax_kernels(int64_t head_dim);
/// The sizes for which there are kernels, "32, 64, 96", for messages.
std::string entmax_kernel_sizes();

}  // namespace asplash::ops
