#pragma once

#include "portable/tiles.cuh"

/// The support: what the forward keeps of each row for the backward, its keys with weight and their
/// u = z - tau. (z, tau: entmax_attention.h.)
///
/// A row has one word (PackedRange) and room for support_of_row() entries, which the rows of a row tile that
/// a warp of the forward takes share. If that is too little, a row has more than kSupportOfOneRow, its rows
/// have no lists or its document more than kMaximalKeys, the row tile is lost: left to the kernels that take
/// whole tiles (entmax_backward.cuh). So are all of a head where tiles cost less (pairs_of_row), unless a
/// mean was left out.
namespace asplash::kernels::portable {

/// Documents of at most so many keys have a support.
constexpr int kMaximalUnits = 1024;
/// Rows with more keys than this lose their row tile's: what a warp of the backward has room for.
constexpr int kSupportOfOneRow = 256;
constexpr int kMaximalKeys = kMaximalUnits * kTile;

/// An entry: the key in the high half, u, which is at most 1, in the low one. Entries have weight: none is
/// rounded to 0.
struct SupportEntry {
  static constexpr float kUnit = 1.0F / 65535;

  static __device__ uint32_t of(int key, float u) {
    const int rounded = __float2int_rn(u * 65535);
    return static_cast<uint32_t>(key) << 16 | static_cast<uint32_t>(min(max(rounded, 1), 65535));
  }
  static __device__ int key(uint32_t entry) { return static_cast<int>(entry >> 16); }
  static __device__ float u(uint32_t entry) { return static_cast<float>(entry & 0xFFFF) * kUnit; }
};
/// p = u^r errs by r times what u does: by 2^-12 here, less than a 16-bit number. Beyond, all goes by tiles.
constexpr float kMaximalSupportExponent = 32;
static_assert(kMaximalKeys == 65536);

/// A range of what a row tile has, 16 bits for where it begins and how long it is: a row's entries, or the
/// pairs with a key tile (entmax_pairs.cuh).
struct PackedRange {
  uint32_t word;

  static __device__ PackedRange of(int first, int count) {
    return {static_cast<uint32_t>(first) | static_cast<uint32_t>(count) << 16};
  }
  __device__ int first() const { return static_cast<int>(word & 0xFFFF); }
  __device__ int count() const { return static_cast<int>(word >> 16); }
};
static_assert(kTile * kSupportOfRow < 0xFFFF);
constexpr uint32_t kNoSupport = 0xFFFFFFFF;  ///< in a row's place: its row tile is lost

/// A row tile's support.
struct SupportTile {
  uint32_t* rows;     ///< PackedRange
  uint32_t* entries;  ///< as many as its rows have room for
};
/// token: the row tile's first.
__device__ inline SupportTile support_tile(const EntmaxAttentionParams& p, int64_t head_index, int token) {
  uint32_t* of_head = p.support + head_index * p.shape.support_words();
  return {of_head + token, of_head + p.shape.q_tokens + int64_t{token} * p.shape.support_of_row()};
}

/// What the backward decides by.
struct SupportOfHead {
  uint32_t lost;           ///< row tiles
  uint32_t pairs;          ///< entries of the other row tiles, those of rows found broken included
  uint32_t rows_of_tiles;  ///< their row bits that are set: rows that may have weight in a key tile
  uint32_t without_mean;   ///< row tiles, not lost, of which some row has no mean, or is broken
};
static_assert(sizeof(SupportOfHead) == kSupportWordsOfHead * sizeof(uint32_t));
__device__ inline SupportOfHead& support_of_head(const EntmaxAttentionParams& p, int64_t head_index) {
  return *reinterpret_cast<SupportOfHead*>(p.support + (head_index + 1) * p.shape.support_words() -
                                           kSupportWordsOfHead);
}
/// By a block, for a row tile of `rows` rows.
__device__ inline void lose_support(SupportTile tile, int rows, const EntmaxAttentionParams& p,
                                    int64_t head_index) {
  if (static_cast<int>(threadIdx.x) < rows) tile.rows[threadIdx.x] = kNoSupport;
  if (threadIdx.x == 0) atomicAdd(&support_of_head(p, head_index).lost, 1U);
}
/// Whether the pairs of a row, by its token, are left to the kernels that take whole tiles, in a head that
/// goes both ways.
__device__ inline bool row_is_lost(const EntmaxAttentionParams& p, int64_t head_index, int token) {
  return p.support[head_index * p.shape.support_words() + token] == kNoSupport;
}

/// Which kernels of the backward have work: of a head, or of all query heads of a key/value head.
struct BackwardWays {
  bool tiles, pairs;

  static __device__ BackwardWays of_head(const EntmaxAttentionParams& p, int64_t head_index) {
    if (p.support == nullptr) return {true, false};
    const SupportOfHead head = support_of_head(p, head_index);
    const bool cheaper = head.pairs > 0 && head.pairs <= int64_t{p.pairs_of_row} * head.rows_of_tiles &&
                         2 * int64_t{head.lost} <= p.shape.row_tiles();
    const bool pairs = cheaper || head.without_mean > 0;  // tiles need means
    return {head.lost != 0 || !pairs, pairs};
  }
  static __device__ BackwardWays of_group(const EntmaxAttentionParams& p, int64_t kv_index) {
    const int group = p.shape.heads / p.shape.kv_heads;
    BackwardWays ways{false, false};
#pragma unroll 1
    for (int member = 0; member < group; ++member) {
      const BackwardWays own = of_head(p, kv_index * group + member);
      ways.tiles |= own.tiles;
      ways.pairs |= own.pairs;
    }
    return ways;
  }
};

/// A tile of keys, and columns of it, that a block takes through its rows; in shared memory.
struct KeyTilePlace {
  Document document;
  int batch, kv_head, key_tile, first_column;
  int kv_index;       ///< of [batch x kv_heads]
  BackwardWays ways;  ///< of the key/value head

  /// In the order of blocks: the first key tiles have the most rows, above all the first of all, which is
  /// often a sink. chunks: blocks that share a tile's columns, chunk each; heads count from launch.first_head
  /// on.
  __device__ void take(const Launch& launch, const BlockOrder& order, int chunks, int chunk) {
    const EntmaxAttentionParams& p = launch.params;
    const auto [tile, head_and_chunk] = order.of(blockIdx.x);
    kv_index = launch.first_head / (p.shape.heads / p.shape.kv_heads) + head_and_chunk / chunks;
    document = document_with_tile(launch, launch.key_tile_begin, tile);
    batch = kv_index / p.shape.kv_heads;
    kv_head = kv_index % p.shape.kv_heads;
    key_tile = tile - document.key_tile_begin;
    first_column = head_and_chunk % chunks * chunk;
    ways = BackwardWays::of_group(p, kv_index);
  }
  /// That sees the keys.
  __device__ int first_row_tile(bool causal) const {
    return causal ? max(key_tile * kTile - document.offset(), 0) / kTile : 0;
  }
};

/// Where a key is in grad_key_part and grad_value_part.
__device__ inline int64_t key_part_at(const EntmaxAttentionShape& shape, int64_t kv_index, int token) {
  return (kv_index * shape.k_tokens + token) * shape.head_dim;
}

}  // namespace asplash::kernels::portable
