#pragma once

#include "portable/entmax_scan_block.cuh"

/// What the scan (entmax_scan.cuh) does with a step's scores that lie above their rows' bounds.
namespace asplash::kernels::portable {

/// Marks rows that see a score which is not finite. Only runs where such a score is possible.
template <typename Block, int bands, int groups>
__device__ inline void find_broken(const Block& block, const Scores<bands, groups>& s, const PairRule& rule,
                                   typename Block::Rows& state) {
#pragma unroll
  for (int band = 0; band < bands; ++band) {
#pragma unroll
    for (int n = 0; n < groups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool finite = fabsf(s[band][n][e] * block.launch.z_scale) < kInfinity;
        const int row = block.warp_row() + band * kTile + element_row(e);
        if (!finite && rule.visible(row, element_column(n, e))) state.broken |= 1U << (band * 2 + (e >> 1));
      }
    }
  }
}

/// Moves the windows of rows up to which a score of the step lies above them.
template <typename Block>
__device__ inline void raise_windows(const Block& block, const float (&top)[Block::kThreadRows], float factor,
                                     typename Block::Rows& state) {
  float anchors[Block::kThreadRows];
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) anchors[r] = block.anchor(block.local_row(r));
  __syncwarp();
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    const float maximum = quad_max(top[r] * factor);
    if (maximum > state.lower[r] + 1) {
      // The window's top is always lower + 1 as rounded, so that bins are cleared up to where it next starts.
      const float lower = maximum - 1;
      const int row = block.local_row(r);
      block.anchor(row) =
          move_window(block.histogram(row), state.lower[r] + 1, lower + 1, anchors[r], threadIdx.x % 4, 4);
      state.lower[r] = lower;
    }
  }
  __syncwarp();
}

/// If x > bound: mask |= bit. Predicated: a branch would cost more.
__device__ inline void mark_above(uint32_t& mask, float x, float bound, uint32_t bit) {
  asm("{\n"
      ".reg .pred found;\n"
      "setp.gt.f32 found, %1, %2;\n"
      "@found or.b32 %0, %0, %3;\n"
      "}\n"
      : "+r"(mask)
      : "f"(x), "f"(bound), "r"(bit));
}

/// Counts the largest score of each of a lane's rows, if it lies above the bound.
template <typename Block>
__device__ inline void count_largest(const Block& block, const float (&top)[Block::kThreadRows], float factor,
                                     const typename Block::Rows& state) {
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r)
    count_score(shared_address(block.histogram(block.local_row(r))), top[r], factor,
                block.anchor(block.local_row(r)), block.format, top[r] * factor > state.lower[r]);
  __syncwarp();  // counts before slots are cleared again
}

/// Counts and lists the scores above their rows' bounds, in the bands (bits) where there are any. A lane puts
/// its scores into shared memory, where they can be picked by number.
template <typename Block, int bands, int groups>
__device__ inline void take_finds(const Block& block, const Scores<bands, groups>& s, unsigned int found,
                                  float factor, int first_key, const float (&top)[Block::kThreadRows],
                                  Finding finding, typename Block::Rows& state) {
  static_assert(bands <= 2 && groups == 4);
  const uint32_t mine = block.address(Block::Layout::kScoresAt) + threadIdx.x * Block::Layout::kScoresStride;
  const float inverse = factor == 1 ? 1 : block.launch.inverse_z_scale;
  uint32_t mask = 0;
#pragma unroll
  for (int band = 0; band < bands; ++band) {
    if ((found >> band & 1) == 0) continue;
    const float bounds[2] = {state.lower[2 * band] * inverse, state.lower[2 * band + 1] * inverse};
#pragma unroll
    for (int n = 0; n < groups; ++n) {
      const int first_bit = (band * groups + n) * 4;
      store_four(mine + first_bit * 4, s[band][n]);
#pragma unroll
      for (int e = 0; e < 4; ++e) mark_above(mask, s[band][n][e], bounds[e >> 1], 1U << (first_bit + e));
    }
  }
  const uint32_t histograms = shared_address(block.histogram(block.local_row(0)));
  const uint32_t anchors = shared_address(&block.anchor(block.local_row(0)));
  first_key += threadIdx.x % 4 * 2;
  // Bits of i: 16: band, 12: group, 2: row (+ 8) within the band, 1: column. No branch: lanes stay together.
  const auto next = [&] {
    const int i = 31 - __clz(static_cast<int>(mask | 1));
    mask &= ~(1U << i);
    return i;
  };
  const auto count = [&](int i, float x, bool yes) {
    const int rows_below = (i & 18) * 4;
    count_score(histograms + rows_below * (kHistogramStride * 4), x, factor,
                load_float(anchors + rows_below * 4), block.format, yes);
  };
  if (finding == Finding::again && state.lists.lost) {
#pragma unroll 1
    while (__any_sync(0xFFFFFFFFU, mask != 0)) {
      const bool yes = mask != 0;
      const int i = next();
      const float x = load_float(mine + i * 4);
      float largest = (i & 2) == 0 ? top[0] : top[1];
      if constexpr (bands == 2) largest = (i & 16) == 0 ? largest : (i & 2) == 0 ? top[2] : top[3];
      count(i, x, yes && x < largest);
    }
  } else {
#pragma unroll 1
    while (__any_sync(0xFFFFFFFFU, mask != 0)) {
      const bool yes = mask != 0;
      const int i = next();
      const float x = load_float(mine + i * 4);
      count(i, x, yes && finding == Finding::later);
      state.lists.add((i & 18) * 4, (i & 16) + (i & 2) * 4, x * factor, first_key + (i & 12) * 2 + (i & 1),
                      yes);
    }
  }
  __syncwarp();  // counts before slots are cleared again
}

}  // namespace asplash::kernels::portable
