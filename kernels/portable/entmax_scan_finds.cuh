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
template <uint32_t bit>
__device__ inline void mark_above(uint32_t& mask, float x, float bound) {
  asm("{\n"
      ".reg .pred found;\n"
      "setp.gt.f32 found, %1, %2;\n"
      "@found or.b32 %0, %0, %3;\n"
      "}\n"
      : "+r"(mask)
      : "f"(x), "f"(bound), "n"(bit));
}

/// Marks the scores of a lane in one band and group that lie above their rows' bounds.
template <int band, int n, int groups>
__device__ inline void mark_finds(uint32_t& mask, const float (&s)[4], float first_bound,
                                  float second_bound) {
  constexpr int kBit = (band * groups + n) * 4;
  mark_above<1U << kBit>(mask, s[0], first_bound);
  mark_above<2U << kBit>(mask, s[1], first_bound);
  mark_above<4U << kBit>(mask, s[2], second_bound);
  mark_above<8U << kBit>(mask, s[3], second_bound);
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
  const auto mark = [&](auto band_tag) {
    constexpr int kBand = decltype(band_tag)::value;
    if ((found >> kBand & 1) == 0) return;
    const float first = state.lower[2 * kBand] * inverse, second = state.lower[2 * kBand + 1] * inverse;
#pragma unroll
    for (int n = 0; n < groups; ++n) store_four(mine + (kBand * groups + n) * 16, s[kBand][n]);
    mark_finds<kBand, 0, groups>(mask, s[kBand][0], first, second);
    mark_finds<kBand, 1, groups>(mask, s[kBand][1], first, second);
    mark_finds<kBand, 2, groups>(mask, s[kBand][2], first, second);
    mark_finds<kBand, 3, groups>(mask, s[kBand][3], first, second);
  };
  mark(Index<0>{});
  if constexpr (bands == 2) mark(Index<1>{});
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
    // By twos, which do not wait for each other.
#pragma unroll 1
    while (__any_sync(0xFFFFFFFFU, mask != 0)) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const bool yes = mask != 0;
        const int i = next();
        const float x = load_float(mine + i * 4);
        count(i, x, yes && finding == Finding::later);
        state.lists.add((i & 18) * 4, (i & 16) + (i & 2) * 4, x * factor, first_key + (i & 12) * 2 + (i & 1),
                        yes);
      }
    }
  }
  __syncwarp();  // counts before slots are cleared again
}

}  // namespace asplash::kernels::portable
