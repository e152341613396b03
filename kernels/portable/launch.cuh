#pragma once

#include <algorithm>
#include <cmath>

#include "asplash/kernels/entmax_attention.h"

/// What every kernel of entmax attention gets, and where a tile of rows or keys lies.
namespace asplash::kernels::portable {

constexpr float kInfinity = INFINITY;

struct Find;  // entmax_finds.cuh
struct Pair;  // entmax_pairs.cuh
struct Segment;

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
  // Parts of the workspace (lay_out in entmax_attention.cu: which call has which).
  int32_t* row_tile_begin = nullptr;  ///< [documents + 1], with cu_seqlens only
  int32_t* key_tile_begin = nullptr;
  KeyTileFacts* key_facts = nullptr;  ///< [batch, kv_heads, key_tiles]
  float* lower = nullptr;             ///< [batch, heads, q_tokens]: lower bound of the threshold
  float* crowd = nullptr;  ///< [batch, heads, q_tokens]: at most so many scores lie between it and tau
  Find* lists = nullptr;   ///< [rows of some heads, kListOfRow]: scores above bounds, with their keys
  uint32_t* list_lengths = nullptr;  ///< [batch, heads, q_tokens]: a byte for each of a row's four lists
  float* delta = nullptr;            ///< [batch, heads, q_tokens]: dO . mean; anything for rows without one
  float* row_bound =
      nullptr;  ///< [batch, heads, q_tokens]: times value_maximum and the column's, bounds dQ's sums
  int* broken_rows = nullptr;       ///< [batch, heads]: not 0 if a row may hold numbers that are not finite
  float* column_maximum = nullptr;  ///< [batch, kv_heads, head_dim]: largest |k| that is finite
  float* value_maximum = nullptr;   ///< [batch, kv_heads]: largest |v| (norm) of finite numbers
  /// [batch, heads, q_tokens, head_dim / 2]: two sums in each (PairOfSums)
  unsigned long long* grad_query_sum = nullptr;
  float inverse_z_scale = 0;  ///< where z_scale is positive
  int first_head = 0;         ///< of [batch x heads], of those whose rows have lists, or pairs, now
  /// [batch, kv_heads, k_tokens, head_dim]: dK and dV of row tiles without a support, where others have one
  float* grad_key_part = nullptr;
  float* grad_value_part = nullptr;
  // Of rows of some heads, from first_head on (entmax_pairs.cuh):
  Segment* segments = nullptr;  ///< [heads, unit_count(), row_tiles]
  Pair* pairs = nullptr;        ///< [heads, q_tokens, support_of_row()]
};

/// Programmatic dependent launch (CUDA programming guide; where kernels are compiled for compute capability
/// 9.0 or later; elsewhere they follow each other, and these functions do nothing): a kernel's blocks begin
/// when those of the kernel before have all begun and let it, or ended. It waits for that one's end and
/// memory before it reads or writes any that the other does.
///
/// Before it waits, a kernel may read what was complete when the latest kernel began of which every block
/// waits before it lets the next one begin: key facts (where documents' tiles begin; queries), sparse output
/// (list lengths, for output), pair rows (all that a forward leaves). Blocks of the others may leave without
/// waiting, so that nothing follows from their having begun. tile_offsets_kernel, copies and fp32 kernels are
/// launched plainly: all before them is complete, and they are complete for all behind them.
__device__ inline void wait_for_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
__device__ inline void let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
/// What the next kernel may then read without waiting is complete.
__device__ inline void wait_and_let_next_kernel_begin() {
  wait_for_kernels_before();
  let_next_kernel_begin();
}
/// Of a block that has nothing to do, without waiting. One waits for all, since this kernel's end is taken
/// for that of the kernels before it.
__device__ inline void leave_without_work() {
  let_next_kernel_begin();
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0) wait_for_kernels_before();
}

/// A document as tokens [begin, begin + length) of queries and keys, and where its tiles start.
struct Document {
  int q_begin = 0, q_length = 0, k_begin = 0, k_length = 0;
  int row_tile_begin = 0, key_tile_begin = 0;

  __device__ int offset() const { return k_length - q_length; }
  __device__ int row_tiles() const { return (q_length + kTile - 1) / kTile; }
  __device__ int key_tiles() const { return (k_length + kTile - 1) / kTile; }
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
  d = {q.begin, q.length, k.begin, k.length, launch.row_tile_begin[index], launch.key_tile_begin[index]};
  // Documents that overlap are an error of the caller's, and may need more tiles than there is memory for.
  if (d.row_tile_begin + d.row_tiles() > p.shape.row_tiles()) d.q_length = 0;
  if (d.key_tile_begin + d.key_tiles() > p.shape.key_tiles()) d.k_length = 0;
  return d;
}

/// The document of a global tile; q_length and k_length 0 where the tile does not exist.
__device__ inline Document document_with_tile(const Launch& launch, const int32_t* tile_begin, int tile) {
  if (launch.params.cu_q == nullptr) return document_at(launch, 0);
  const int documents = launch.params.shape.documents;
  if (tile >= tile_begin[documents]) return Document{};
  int low = 0, high = documents;  // tile_begin[low] <= tile < tile_begin[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (tile_begin[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  return document_at(launch, low);
}

/// What a block of query rows works on. In shared memory: registers are short where products are accumulated.
struct RowPlace {
  Document document;
  int batch, head, kv_head;
  int row0, rows;  ///< of the document
  int key_tiles;   ///< that some row sees
  int64_t head_index;
  int64_t row_index;  ///< of row0 in [batch, heads, q_tokens]
  int64_t mask_at;    ///< of its row tile in tile_mask
  int64_t facts_at;   ///< of the document's first key tile in key_facts
  float slope;        ///< (alpha - 1) slope of the head

  /// For rows [row0, row0 + row_limit) of the global row tile; rows 0 where that does not exist.
  __device__ RowPlace(const Launch& launch, int row_tile, int row_limit, int place_head, int place_batch)
      : document(document_with_tile(launch, launch.row_tile_begin, row_tile)),
        batch(place_batch),
        head(place_head) {
    const EntmaxAttentionParams& p = launch.params;
    const EntmaxAttentionShape& shape = p.shape;
    kv_head = head / (shape.heads / shape.kv_heads);
    row0 = (row_tile - document.row_tile_begin) * kTile;
    rows = max(min(row_limit, document.q_length - row0), 0);
    key_tiles = (document.visible_keys(p.causal, row0 + rows) + kTile - 1) / kTile;
    head_index = int64_t{batch} * shape.heads + head;
    row_index = head_index * shape.q_tokens + document.q_begin + row0;
    mask_at = (head_index * shape.row_tiles() + row_tile) * shape.mask_words();
    facts_at = (int64_t{batch} * shape.kv_heads + kv_head) * shape.key_tiles() + document.key_tile_begin;
    slope = p.slopes ? p.slopes[head] * launch.slope_scale : 0.0F;
  }
};

/// Blocks in one dimension, each of a tile and a head: of `together` heads the first tiles, the second ones,
/// ..., then of the next heads. Where tiles go from long to short, no long one is left for the end: a quarter
/// of the time of 4096 tokens.
struct BlockOrder {
  int tiles, heads, together;

  struct Place {
    int tile, head;
  };
  __device__ Place of(unsigned int block) const {
    const int of_group = tiles * together, group = static_cast<int>(block) / of_group;
    const int index = static_cast<int>(block) - group * of_group,
              width = min(together, heads - group * together);
    return {index / width, group * together + index % width};
  }
  unsigned int blocks() const { return static_cast<unsigned int>(tiles) * static_cast<unsigned int>(heads); }
};
inline BlockOrder block_order(int tiles, int heads) { return {tiles, heads, heads}; }
/// For blocks that gather: heads by as many as find what they read in so much of the L2 cache, `bytes` each.
/// (Those that stream tiles run as fast from memory, and do not mind.) H200, 16384 tokens, heads of 128, pair
/// rows: with 40, 24, 12, 6 MiB 1.02, 0.92, 0.90, 0.90 ms, as each half of the cache keeps its own copy; pair
/// keys, whose blocks are of very different length: 1.86, 1.85, 1.83, 1.82, but 0.25, 0.32, 0.30, 0.33 at
/// 4096.
inline BlockOrder block_order(int tiles, int heads, int64_t bytes, int64_t cache) {
  return {tiles, heads, static_cast<int>(std::clamp<int64_t>(cache / std::max<int64_t>(bytes, 1), 1, heads))};
}
constexpr int64_t kCacheOfRows = 16 << 20, kCacheOfKeys = 40 << 20;

/// `head`: of the whole batch, from launch.first_head on.
__device__ inline RowPlace place_of_listed(const Launch& launch, int row_tile, int head, int row_limit) {
  const int heads = launch.params.shape.heads, index = launch.first_head + head;
  return {launch, row_tile, row_limit, index % heads, index / heads};
}
/// Row tiles, `step` at a time, in the order of blocks; causal: the last ones see the most keys and go first.
__device__ inline BlockOrder::Place row_place(const Launch& launch, const BlockOrder& order, int step = 1) {
  const BlockOrder::Place place = order.of(blockIdx.x);
  return {(launch.params.causal ? order.tiles - 1 - place.tile : place.tile) * step, place.head};
}

template <typename T>
__device__ inline T* token_pointer(const AttentionTensor& tensor, int batch, int head, int token) {
  return static_cast<T*>(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride +
         token * tensor.token_stride;
}

}  // namespace asplash::kernels::portable
