#pragma once

#include <cmath>

#include "asplash/kernels/entmax_attention.h"

/// What every kernel of entmax attention gets, and where a tile of rows or keys lies.
namespace asplash::kernels::portable {

constexpr float kInfinity = INFINITY;

/// One key tile's largest |k| and |v| (Euclidean; infinite if a number is not finite).
struct KeyTileFacts {
  float key_norm;
  float value_norm;
};

/// Passed by value.
struct Launch {
  EntmaxAttentionParams params;
  EntmaxAttentionGradients gradients;
  float z_scale = 0;      ///< (alpha - 1) scale
  float slope_scale = 0;  ///< alpha - 1
  float exponent = 2;     ///< r
  // Parts of the workspace (workspace.h says which call has which).
  int32_t* row_tile_begin = nullptr;  ///< [documents + 1], with cu_seqlens only
  int32_t* key_tile_begin = nullptr;
  KeyTileFacts* key_facts = nullptr;  ///< [batch, kv_heads, key_tiles]
  float* lower = nullptr;             ///< [batch, heads, q_tokens]: lower bound of the threshold
  float* delta = nullptr;             ///< [batch, heads, q_tokens]: dO . mean
  float* row_quantum = nullptr;       ///< [batch, heads, q_tokens]: dQ is summed in multiples of it
  float* column_quantum = nullptr;    ///< [batch, kv_heads, head_dim]: ... times this
  int32_t* grad_query_sum = nullptr;  ///< [batch, heads, ceil(q_tokens / 8), head_dim * 8]
};

/// A document as tokens [begin, begin + length) of queries and keys, and where its tiles start.
struct Document {
  int q_begin = 0, q_length = 0, k_begin = 0, k_length = 0;
  int row_tile_begin = 0, key_tile_begin = 0;

  __device__ int offset() const { return k_length - q_length; }
  __device__ int row_tiles() const { return (q_length + kTile - 1) / kTile; }
  /// Keys that the document's local rows [0, rows) can see at most.
  __device__ int visible_keys(bool causal, int rows) const {
    return causal ? min(max(rows + offset(), 0), k_length) : k_length;
  }
};

/// Tokens [first, second) of document `index`, within [0, tokens) whatever the offsets say.
struct TokenRange {
  int begin, length;
};
__device__ inline TokenRange token_range(const int32_t* cu, int index, int tokens) {
  const int begin = min(max(cu[index], 0), tokens);
  return {begin, max(min(cu[index + 1], tokens) - begin, 0)};
}

__device__ inline Document document_at(const Launch& launch, int index) {
  const EntmaxAttentionParams& p = launch.params;
  Document d;
  if (p.cu_q == nullptr) {
    d.q_length = p.shape.q_tokens;
    d.k_length = p.shape.k_tokens;
    return d;
  }
  const TokenRange q = token_range(p.cu_q, index, p.shape.q_tokens);
  const TokenRange k = token_range(p.cu_k, index, p.shape.k_tokens);
  return {q.begin, q.length, k.begin, k.length, launch.row_tile_begin[index], launch.key_tile_begin[index]};
}

/// The document of a global tile; q_length and k_length 0 where the tile does not exist.
__device__ inline Document document_with_tile(const Launch& launch, const int32_t* tile_begin, int tile) {
  if (launch.params.cu_q == nullptr) return document_at(launch, 0);
  const int documents = launch.params.shape.documents;
  if (tile >= tile_begin[documents]) return Document{};
  int low = 0, high = documents;  // tile_begin[low] <= tile < tile_begin[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (tile_begin[middle] <= tile) low = middle;
    else high = middle;
  }
  return document_at(launch, low);
}

template <typename T>
__device__ inline T* token_pointer(const AttentionTensor& tensor, int batch, int head, int token) {
  return static_cast<T*>(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride +
         token * tensor.token_stride;
}

}  // namespace asplash::kernels::portable
