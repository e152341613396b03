#pragma once

#include "portable/tiles.cuh"

/// Lists the rows that give a tile of keys weight, from the row bits of the mask.
namespace asplash::kernels::portable {

/// Rows as a ring in shared memory: numbers from the first row of a span of at most kSpanTiles row tiles.
/// They are taken in stages of kTile: one is worked on, one copied, one listed while four more tiles of rows
/// may come.
constexpr int kRing = 512;
constexpr int kSpanTiles = 1024;
using RowNumber = uint16_t;
static_assert(kRing >= 3 * kTile + kWarps * kTile && kSpanTiles * kTile <= 65536);

/// Where the listing of rows stands; the same in all threads but for `word`.
struct RowList {
  uint2 word;  ///< row bits of tile `group` + lane
  int group;
  int next;    ///< tile to be listed
  int listed;  ///< rows so far

  /// Rows of a stage, 0 after the last.
  __device__ int count(int stage) const { return min(max(listed - stage * kTile, 0), kTile); }
};

/// Lists rows of tiles [span, span_end) up to the end of a stage, or all. row_bits(tile): 0 from span_end on.
/// Each warp takes one of four tiles. The block must meet before it reads them.
template <typename RowBits>
__device__ inline void list_more_rows(RowList& list, RowNumber* ring, int stage, int span, int span_end,
                                      RowBits row_bits) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t below = (1U << lane) - 1;
#pragma unroll 1
  while (list.listed < (stage + 1) * kTile && list.next < span_end) {
    if (list.next >= list.group + 32) {
      list.group = list.next;
      list.word = row_bits(list.group + lane);
    }
    const int rows = __popc(list.word.x) + __popc(list.word.y), skip = list.next - list.group;
    const uint32_t active = __ballot_sync(0xFFFFFFFFU, rows != 0) >> skip;
    const int first = active != 0 ? skip + __ffs(static_cast<int>(active)) - 1 : 32;
    list.next = list.group + min(first + kWarps, 32);
    if (active == 0) continue;
    int at = list.listed;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      const int of_tile = __shfl_sync(0xFFFFFFFFU, rows, (first + i) % 32);
      if (first + i >= 32) continue;
      list.listed += of_tile;
      at += i < warp ? of_tile : 0;
    }
    const uint32_t x = __shfl_sync(0xFFFFFFFFU, list.word.x, (first + warp) % 32);
    const uint32_t y = __shfl_sync(0xFFFFFFFFU, list.word.y, (first + warp) % 32);
    if (first + warp >= 32) continue;
    const int row = (list.group + first + warp - span) * kTile + row_of_bit(lane);
    if ((x >> lane & 1) != 0) ring[(at + __popc(x & below)) % kRing] = static_cast<RowNumber>(row);
    if ((y >> lane & 1) != 0)
      ring[(at + __popc(x) + __popc(y & below)) % kRing] = static_cast<RowNumber>(row + 32);
  }
}

}  // namespace asplash::kernels::portable
