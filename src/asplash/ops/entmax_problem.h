#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

/// What one call of entmax attention was asked for, checked; shared by the implementations below ops/.
namespace asplash::ops {

/// A block of queries that sees a block of keys. Without cu_seqlens one document spans all tokens.
struct EntmaxDocument {
  int64_t query_begin = 0;
  int64_t queries = 0;
  int64_t key_begin = 0;
  int64_t keys = 0;
  int64_t query_tile_begin = 0;  ///< number of 64-row tiles of the documents before
  int64_t key_tile_begin = 0;

  /// Aligned position of query 0: query i stands where key i + offset() stands.
  int64_t offset() const { return keys - queries; }
};

/// What the backward of the CUDA kernels needs of their forward; undefined where nothing asked for it. Sizes
/// and meaning: kernels/include/asplash/kernels/entmax_attention.h.
struct EntmaxMeans {
  at::Tensor mean_value;  ///< [batch, heads, q_tokens, head_dim], query's dtype
  at::Tensor weight_sum;  ///< [batch, heads, q_tokens] fp32
  at::Tensor tile_mask;   ///< [batch, heads, row tiles, words] int32
  at::Tensor support;     ///< [batch, heads, words] int32, none for fp32
};

struct EntmaxProblem {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t q_tokens = 0;
  int64_t k_tokens = 0;
  int64_t head_dim = 0;
  double alpha = 1.5;
  double scale = 1;
  bool causal = true;
  std::vector<EntmaxDocument> documents;
  int64_t query_tiles = 0;  ///< of all documents
  int64_t key_tiles = 0;

  int64_t group() const { return heads / kv_heads; }  ///< query heads per key/value head
  double exponent() const { return alpha == 1.5 ? 2.0 : alpha == 2.0 ? 1.0 : 1.0 / (alpha - 1.0); }
};

/// The arguments that all operators share.
struct EntmaxArguments {
  const at::Tensor& query;
  const at::Tensor& key;
  const at::Tensor& value;
  double alpha;
  std::optional<double> scale;
  bool causal;
  const std::optional<at::Tensor>& alibi_slopes;
  const std::optional<at::Tensor>& cu_seqlens_q;
  const std::optional<at::Tensor>& cu_seqlens_k;
};

/// Throws c10::Error naming the argument that is refused. Reads no device memory: the values of cu_seqlens
/// are not looked at, those of slopes on the CPU alone.
void check_entmax_arguments(const EntmaxArguments& arguments);

/// The same, and reads cu_seqlens on the host, whose values it checks (on CUDA: synchronizes).
EntmaxProblem check_entmax(const EntmaxArguments& arguments);

/// The same as check_entmax_arguments for what the backward operators get besides.
void check_entmax_backward(const at::Tensor& grad_out, const at::Tensor& tau,
                           const EntmaxArguments& arguments);

/// The factor of query . key: as given, else 1/sqrt(head_dim).
double entmax_scale(const EntmaxArguments& arguments);

/// fp64 for fp64, fp32 for all others.
at::ScalarType entmax_compute_type(const at::Tensor& query);

/// Uninitialized [batch, heads, tokens, head_dim] on like's device, its other sizes like's, without gaps.
/// Tokens lie outside heads where like has them so (what projections give), so that the way back to [tokens,
/// heads * head_dim] copies nothing. Sizes may be symbolic.
at::Tensor empty_heads_like(const at::Tensor& like, const c10::SymInt& head_dim, at::ScalarType type);
at::Tensor empty_heads_like(const at::Tensor& like);

/// The numbers in like's dtype, laid out by empty_heads_like(like).
at::Tensor as_heads_like(const at::Tensor& like, const at::Tensor& numbers);

struct EntmaxForward {
  at::Tensor out;         ///< [batch, heads, q_tokens, head_dim], query's dtype, laid out by empty_heads_like
  at::Tensor tau;         ///< [batch, heads, q_tokens], compute type; +infinity for rows that see no key
  at::Tensor statistics;  ///< fp64 [kEntmaxStatistics], or [0] if not asked for
  EntmaxMeans means;
};

/// Laid out by empty_heads_like.
struct EntmaxBackward {
  at::Tensor query;
  at::Tensor key;
  at::Tensor value;
};

/// Tiled loops over the CPU's cores.
EntmaxForward entmax_forward_cpu(const EntmaxArguments& arguments, bool with_statistics);
EntmaxBackward entmax_backward_cpu(const at::Tensor& grad_out, const at::Tensor& tau,
                                   const EntmaxArguments& arguments);

/// Chunks of queries by tensor operations, on any device: the reference.
EntmaxForward entmax_forward_tensor(const EntmaxArguments& arguments, bool with_statistics);
EntmaxBackward entmax_backward_tensor(const at::Tensor& grad_out, const at::Tensor& tau,
                                      const EntmaxArguments& arguments);

}  // namespace asplash::ops
