#pragma once

#include "portable/entmax_finds.cuh"
#include "portable/entmax_histogram.cuh"

/// What a block of the scan (entmax_scan.cuh) has in shared memory, and its threads in registers.
namespace asplash::kernels::portable {

/// row_tiles: of a block; a warp's 16 rows of each share key fragments. 2, if registers and the number of
/// blocks allow.
template <typename T, int head_dim, int row_tiles>
struct Scan {
  static_assert(row_tiles == 1 || (row_tiles == 2 && head_dim <= 128));
  static constexpr int kRowTiles = row_tiles;
  static constexpr int kBands = kRowTiles;
  static constexpr int kWarpRows = 16 * kBands;
  static constexpr int kRows = kRowTiles * kTile;
  static constexpr int kStepGroups = 4;  ///< of 8 keys
  static constexpr int kStepKeys = kStepGroups * 8;
  static constexpr bool kInRegisters = head_dim <= 128;  ///< the queries
  static constexpr int kStages = kInRegisters ? 2 : 1;
  using Rows = Tile<T, head_dim>;

  /// Queries lie where keys will, if they move to registers.
  static constexpr int kQueryAt = 0;
  static constexpr int kKeyAt = kInRegisters ? 0 : kRowTiles * Rows::kBytes;
  static constexpr int kHistogramAt = kKeyAt + kStages * Rows::kBytes;
  static constexpr int kReachAt = kHistogramAt + kRows * kHistogramStride * 4;
  static constexpr int kScoresAt = kReachAt + kRows * 4;
  /// Of a thread's scores of a step; so that neither four at a time nor any one meet in few banks.
  static constexpr int kScoresStride = kBands * kStepGroups * 16 + 16;
  static constexpr int kAnchorsAt = kScoresAt + kThreads * kScoresStride;
  static constexpr int kCandidatesAt = kAnchorsAt + kRows * 4;
  static int shared_bytes(int tile_words) { return kCandidatesAt + (kRowTiles + 1) * tile_words * 4; }
  static constexpr int kBlocks = head_dim > 128   ? 1
                                 : head_dim == 96 ? 4 - row_tiles
                                 : row_tiles == 1 ? (head_dim <= 64 ? 5 : 4)
                                 : head_dim <= 64 ? 4
                                                  : 3;  ///< at a time on a multiprocessor
};

/// What happens to scores above the bound. Early: of a lane's scores in a row and step, the largest is
/// counted: while there are few keys, half of the scores are above the bound, and a subset bounds, too.
/// Later: all are counted and listed. Again: those of early tiles that are candidates are listed at the end,
/// by then few; or, if the warp has lost its lists, counted if they were not.
enum class Finding { early, later, again };
/// How many key tiles are early. Where positions bias scores, none: the walk is short and may end anywhere.
__device__ inline int early_tiles_of(const RowPlace& place) {
  const int tiles = place.key_tiles;
  return place.slope != 0 ? 0 : tiles <= 64 ? tiles / 4 : 8 + tiles / 8;
}

/// A thread's rows: two of each band (lane / 4 and lane / 4 + 8). The four lanes of a quad agree on all but
/// broken.
template <int rows>
struct ScanRows {
  float lower[rows];        ///< bound of the threshold
  unsigned int broken = 0;  ///< bit r: a score is not finite
  LaneLists<rows> lists;
};

template <typename T, int head_dim, int row_tiles>
struct ScanBlock {
  using Layout = Scan<T, head_dim, row_tiles>;
  static constexpr int kThreadRows = 2 * Layout::kBands;
  using Rows = ScanRows<kThreadRows>;

  const Launch& launch;
  const RowPlace& place;
  const HistogramFormat format;
  char* shared;
  const T* keys;     ///< the document's first
  int seen_by_all;   ///< leading keys that all rows of the warp see
  int seen_by_some;  ///< leading keys that some row of the warp may see
  bool plain;        ///< z is a positive multiple of the product, where all pairs exist
  bool careful;      ///< a score may not be finite

  __device__ uint32_t address(int offset) const { return shared_address(shared + offset); }
  __device__ uint32_t* histogram(int row) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kHistogramAt) + row * kHistogramStride;
  }
  /// |z_scale| |q| max |k| of a row: no product's share of z is larger.
  __device__ float& reach(int row) const { return reinterpret_cast<float*>(shared + Layout::kReachAt)[row]; }
  /// Of a row's histogram.
  __device__ float& anchor(int row) const {
    return reinterpret_cast<float*>(shared + Layout::kAnchorsAt)[row];
  }
  __device__ uint32_t* candidates(int row_tile) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kCandidatesAt) +
           row_tile * launch.params.shape.tile_words();
  }
  /// The candidates of either row tile among the early key tiles.
  __device__ uint32_t* early() const { return candidates(Layout::kRowTiles); }
  /// The warp's first row of the first row tile.
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }
  __device__ int local_row(int r) const {
    return warp_row() + r / 2 * kTile + r % 2 * 8 + threadIdx.x % 32 / 4;
  }
  __device__ PairRule rule(int first_key) const {
    return {launch.params.causal, place.row0 + place.document.offset(), first_key, place.document.k_length,
            place.slope};
  }
  __device__ bool row_exists(int r) const {
    const int row = local_row(r);
    return row < place.rows && (!launch.params.causal || place.row0 + row + place.document.offset() >= 0) &&
           place.key_tiles > 0;
  }
  __device__ void load_keys(int key_tile, int stage) const {
    const int64_t stride = launch.params.key.token_stride;
    Layout::Rows::load(address(Layout::kKeyAt) + stage * Layout::Rows::kBytes,
                       keys + key_tile * (kTile * stride), stride,
                       place.document.k_length - key_tile * kTile);
    commit_copies();
  }
};

}  // namespace asplash::kernels::portable
