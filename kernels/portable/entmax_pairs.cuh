#pragma once

#include <algorithm>

#include "portable/entmax_finds.cuh"
#include "portable/entmax_row_source.cuh"
#include "portable/entmax_support.cuh"

/// Pairs of a row and a key with weight: what the two kernels of the backward that go by the support hand
/// over. entmax_pair_rows.cuh takes those of each row, finds dS and sums dQ; entmax_pair_keys.cuh takes those
/// of a key tile, and sums dK and dV. Between them pairs are kept by row tile and key tile; in which order
/// within these changes from run to run, and no result depends on it.
///
/// Story, H200, 16 heads of 128, no zero tiles at 4096 and 16384 tokens, and 70 % of them at 8192; whole
/// tiles: 0.68, 4.8 and 1.03 ms. (1) Both by pairs in fp32, those of a key sorted by row: rows 0.28, 1.23,
/// 0.48, keys 0.44, 1.64, 0.72. (2) Both by tensor cores, stages of gathered rows or keys with pairs
/// scattered into tiles of zeros: 0.38, 2.24, 0.52 and 0.34, 2.08, 0.47. Two products cost what five do in
/// entmax_backward.cuh: most instructions are not products. (3) So rows as in (1) and keys as in (2), pairs
/// of a stage loaded a stage ahead: 0.23, 1.38, 0.40 and 0.28, 2.14, 0.44. Rows are at 6 TB/s from the L2
/// cache, and lose a third at 16384 tokens where the heads that are taken together do not fit there
/// (BlockOrder). (4) Blocks of 8 warps and 8 bytes a key in shared memory leave 150 KiB of L1 cache, where a
/// fifth of what is gathered is found; a bf16 pair is unpacked by two instructions instead of three,
/// an address made by one or two; pairs know the rank of their row, so that nothing that is loaded for the
/// stage after the next has to be waited for; heads in smaller groups: 0.19, 0.90, 0.32 and 0.24, 1.83, 0.39.
/// Tried and left: rows loaded from memory straight into fragments of tensor cores, no unpacking and no sums
/// over lanes; a load then touches four rows at once, and the L1 cache's tags are the limit: 0.30 instead of
/// 0.23, and 0.24 instead of 0.16 for sparse output.
namespace asplash::kernels::portable {

/// A pair: the row of its tile, which of the rows that have pairs with the key tile that is, the key of its
/// tile; p and dS as they are multiplied.
struct __align__(8) Pair {
  uint32_t place, value;

  template <typename T>
  static __device__ Pair of(int row, int rank, int key, float p, float ds) {
    return {static_cast<uint32_t>(row | rank << 6 | key % kTile << 12), Element<T>::pack(p, ds)};
  }
  __device__ int row() const { return static_cast<int>(place & 63); }
  __device__ int rank() const { return static_cast<int>(place >> 6 & 63); }
  __device__ int key() const { return static_cast<int>(place >> 12); }
};
static_assert(kTile == 64);

/// Key tiles of which a table is kept.
__host__ __device__ inline int unit_count(const EntmaxAttentionShape& shape) {
  const int tiles = (shape.k_tokens + kTile - 1) / kTile;
  return tiles < kMaximalUnits ? tiles : kMaximalUnits;
}

inline bool has_pairs(const EntmaxAttentionShape& s) {
  return s.type != ElementType::fp32 && s.k_tokens > 0 && s.q_tokens > 0;
}

/// Pairs take 0.8 KiB a row, so that not all heads have them at once.
inline int paired_kv_heads(const EntmaxAttentionShape& s) {
  const int group = s.heads / s.kv_heads;
  const int64_t rows = std::max<int64_t>(int64_t{s.row_tiles()} * kTile * group, 1);
  return static_cast<int>(std::min(int64_t{s.batch} * s.kv_heads, std::max<int64_t>(kListedRows / rows, 1)));
}

/// A row tile's pairs with a key tile among those of the row tile, and the rows they have (bits).
struct __align__(16) Segment {
  PackedRange place;
  uint64_t rows;
};
/// Of all row tiles with a key tile; `head`: from first_head on.
__device__ inline Segment* segments_of(const Launch& launch, int head, int key_tile) {
  const EntmaxAttentionShape& shape = launch.params.shape;
  return launch.segments + (int64_t{head} * unit_count(shape) + key_tile) * shape.row_tiles();
}
/// token: the row tile's first.
__device__ inline Pair* pairs_of(const Launch& launch, int head, int token) {
  const EntmaxAttentionShape& shape = launch.params.shape;
  return launch.pairs + (int64_t{head} * shape.q_tokens + token) * shape.support_of_row();
}

}  // namespace asplash::kernels::portable
