#pragma once

#include <cstdint>

/// The inner loops of entmax attention on the CPU: 64 x 64 score tiles, row thresholds, small matrix
/// products. Compiled once per instruction set (entmax_cpu_kernels.cpp) and chosen at run time
/// (entmax_cpu_dispatch.cpp). Every sum is taken in an order that depends on the operands' shapes only, so
/// results are bitwise repeatable.
namespace asplash::ops::cpu {

/// Rows and columns of a tile; tiles are stored row by row without gaps.
inline constexpr int64_t kTile = 64;

/// Which (query, key) pairs of a tile exist.
struct TileGeometry {
  int64_t rows;            ///< queries, <= kTile
  int64_t columns;         ///< keys, <= kTile
  int64_t first_distance;  ///< aligned position of row 0 minus position of column 0
  bool causal;             ///< only pairs with first_distance + row - column >= 0 exist
};

/// z = product * (query . key) - slope * |distance|
template <class T>
struct ScoreFactors {
  T product;  ///< (alpha - 1) * scale
  T slope;    ///< (alpha - 1) * ALiBi slope
};

/// z's largest value in a row and the threshold relative to it: weights are [(z - maximum) -
/// threshold]_+^exponent.
template <class T>
struct RowSolution {
  T maximum;
  T threshold;  ///< in [-1, 0); +infinity for a row without keys, whose maximum is given as 0
  double support;
};

/// exponent is r = 1 / (alpha - 1) throughout: p = u^r with u = [z - tau]_+.
template <class T>
struct Kernels {
  /// c[m, n] = a[m, k] b[k, n], added to c where `accumulate`. a has the given strides, b and c are
  /// row-major; n is a multiple of 16 and columns up to it are read and written.
  void (*multiply)(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row_stride, int64_t a_column_stride,
                   const T* b, int64_t b_stride, T* c, int64_t c_stride, bool accumulate);

  /// Sum of the squares of n numbers, in fp64.
  double (*square_sum)(int64_t n, const T* x);

  /// Turns products into z in place (-infinity where no pair exists); row_max[r] = largest z of row r in this
  /// tile; taint[r] += 0 for finite rows, NaN where a pair's z is not finite.
  void (*score_tile)(const TileGeometry& geometry, ScoreFactors<T> factors, T* tile, T* row_max, T* taint);

  /// Exact threshold of one row whose z lie at tiles + v * kTile * kTile + [0, kTile) for v < tile_count,
  /// with each tile's maximum at tile_max[v * kTile].
  RowSolution<T> (*solve_row)(double exponent, const T* tiles, const T* tile_max, int64_t tile_count);

  /// z -> p in place.
  void (*weight_tile)(double exponent, int64_t rows, const T* maximum, const T* threshold, T* tile);

  /// Products -> u = [z - tau]_+ in place (0 where no pair exists); true if any u is not 0.
  bool (*support_tile)(const TileGeometry& geometry, ScoreFactors<T> factors, const T* tau, T* tile);

  /// With w = u^(r-1) where u > 0, else 0: w_sum[r] += sum w, w_dp_sum[r] += sum w dp.
  void (*backward_sums)(double exponent, int64_t rows, const T* u, const T* dp, double* w_sum,
                        double* w_dp_sum);

  /// u -> p, dp -> scale * w * (dp - delta) in place; 0 wherever u is 0, whatever dp holds.
  void (*gradient_tile)(double exponent, int64_t rows, T scale, const T* delta, T* u, T* dp);
};

}  // namespace asplash::ops::cpu
