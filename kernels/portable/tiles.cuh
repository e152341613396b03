#pragma once

#include "portable/launch.cuh"
#include "portable/mma.cuh"

/// Tiles of 64 rows in shared memory, their products in registers, and what positions do to a product.
/// Blocks have four warps.
namespace asplash::kernels::portable {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

/// Tensor cores multiply 16-bit types only.
template <typename T>
constexpr ElementType kElementType = ElementType::fp32;
template <>
inline constexpr ElementType kElementType<__nv_bfloat16> = ElementType::bf16;
template <>
inline constexpr ElementType kElementType<__half> = ElementType::fp16;

/// Rows of `columns` 16-bit numbers in shared memory. A row is padded by 16 bytes: an odd number of 16-byte units,
/// so that the 8 rows of an ldmatrix fall into different banks.
template <typename T, int columns>
struct Tile {
  static constexpr int kStride = columns * 2 + 16;  ///< bytes
  static constexpr int kBytes = kTile * kStride;    ///< of kTile rows

  /// Starts the copy of rows [0, rows) from global memory; the rest of `total` rows is filled with zeros.
  template <int total = kTile>
  static __device__ void load(uint32_t tile, const T* source, int64_t row_stride, int rows) {
    constexpr int kUnits = columns / 8;
    if constexpr (kThreads % kUnits == 0) {
      constexpr int kRowsAtOnce = kThreads / kUnits;
      const int first = threadIdx.x / kUnits, unit = threadIdx.x % kUnits;
      source += first * row_stride + unit * 8;
      tile += first * kStride + unit * 16;
#pragma unroll
      for (int row = 0; row < total; row += kRowsAtOnce) {
        copy_async(tile + row * kStride, source, first + row < rows);
        source += kRowsAtOnce * row_stride;
      }
    } else {
      for (int i = threadIdx.x; i < total * kUnits; i += kThreads) {
        const int row = i / kUnits, unit = i % kUnits;
        copy_async(tile + row * kStride + unit * 16, source + row * row_stride + unit * 8, row < rows);
      }
    }
  }

  /// Rows [row, row + 16), columns [column, column + 16), as the left operand.
  static __device__ Fragment left(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    return load_matrix(tile + (row + lane % 16) * kStride + (column + lane / 16 * 8) * 2);
  }
  /// Columns [column, column + 16) as rows of the left operand, rows [row, row + 16) as the inner index.
  static __device__ Fragment left_of_columns(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    return load_matrix_transposed(tile + (row + lane % 8 + lane / 16 * 8) * kStride +
                                  (column + lane / 8 % 2 * 8) * 2);
  }
  /// Rows [row, row + 16) as columns of two right operands (x[0], x[1] and x[2], x[3]).
  static __device__ Fragment right_of_rows(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    return load_matrix(tile + (row + lane % 8 + lane / 16 * 8) * kStride + (column + lane / 8 % 2 * 8) * 2);
  }
  /// Columns [column, column + 16) as columns of two right operands, rows [row, row + 16) as the inner index.
  static __device__ Fragment right_of_columns(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    return load_matrix_transposed(tile + (row + lane % 16) * kStride + (column + lane / 16 * 8) * 2);
  }
};

/// A warp's products, bands x 16 rows with 64 columns: [band][column / 8][fragment element].
template <int bands>
using Scores = float[bands][8][4];

/// s = left rows . right rows over `columns`. left_fragment(band, k) gives the left operand of columns
/// [16 k, 16 k + 16).
template <typename T, int columns, int bands, typename LeftFragment>
__device__ inline void multiply_rows(Scores<bands>& s, LeftFragment left_fragment, uint32_t right_tile) {
#pragma unroll
  for (int band = 0; band < bands; ++band)
#pragma unroll
    for (int n = 0; n < 8; ++n) s[band][n][0] = s[band][n][1] = s[band][n][2] = s[band][n][3] = 0;
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) {
    Fragment a[bands];
#pragma unroll
    for (int band = 0; band < bands; ++band) a[band] = left_fragment(band, k);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const Fragment b = Tile<T, columns>::right_of_rows(right_tile, n * 16, k * 16);
#pragma unroll
      for (int band = 0; band < bands; ++band) {
        Element<T>::multiply_add(s[band][2 * n], a[band], b.x[0], b.x[1]);
        Element<T>::multiply_add(s[band][2 * n + 1], a[band], b.x[2], b.x[3]);
      }
    }
  }
}

/// 16 rows of 64 numbers rounded to the 16-bit type: [column / 8][row lane / 4, row lane / 4 + 8].
using PackedScores = uint32_t[8][2];

/// Columns [16 k, 16 k + 16) as the left operand of the next product.
__device__ inline Fragment as_left(const PackedScores& s, int k) {
  return {{s[2 * k][0], s[2 * k][1], s[2 * k + 1][0], s[2 * k + 1][1]}};
}

/// Column and row of fragment element e of column group n for this thread; rows counted from the band's first.
__device__ inline int element_column(int n, int e) { return n * 8 + threadIdx.x % 4 * 2 + (e & 1); }
__device__ inline int element_row(int e) { return threadIdx.x % 32 / 4 + (e >> 1) * 8; }

/// Over the quad's four lanes, which hold a row together.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFU, x, 2);
}

/// How weights follow from u = [z - tau]_+: p = u^r, w = u^(r - 1).
enum class Power { general, linear, square };

/// Calls f with the power as a type, so that its loops are compiled for it.
template <Power power>
struct PowerTag {
  static constexpr Power value = power;
};
template <typename F>
__device__ inline void with_power(float exponent, F f) {
  if (exponent == 2.0F) f(PowerTag<Power::square>{});
  else if (exponent == 1.0F) f(PowerTag<Power::linear>{});
  else f(PowerTag<Power::general>{});
}

/// w of u >= 0; 0 where u is 0.
template <Power power>
__device__ inline float slope_weight(float u, float exponent) {
  if constexpr (power == Power::square) return u;
  if constexpr (power == Power::linear) return u > 0 ? 1.0F : 0.0F;
  return u > 0 ? __powf(u, exponent - 1) : 0.0F;
}

/// Which pairs of a tile exist and what their positions add to z.
struct PairRule {
  bool causal;
  int row_position;  ///< i + offset of row 0 of the tile
  int first_key;     ///< of the tile, in the document
  int keys;          ///< document's k_length
  float slope;       ///< (alpha - 1) slope of the head

  /// Whether rows [first_row, ..) see all keys of the tile.
  __device__ bool all_visible(int first_row) const {
    return first_key + kTile <= keys && (!causal || first_key + kTile - 1 <= row_position + first_row);
  }
  /// Whether rows [.., last_row] see no key of the tile.
  __device__ bool none_visible(int last_row) const { return causal && first_key > row_position + last_row; }
  __device__ bool visible(int row, int column) const {
    const int key = first_key + column;
    return key < keys && (!causal || key <= row_position + row);
  }
  __device__ float bias(int row, int column) const {
    return -slope * fabsf(static_cast<float>(row_position + row - first_key - column));
  }
};

/// Products -> z, -infinity where the pair does not exist. `transposed`: s has keys as rows. first_row: of s.
template <bool transposed, int bands>
__device__ inline void to_z(Scores<bands>& s, const PairRule& rule, float z_scale, int first_row) {
  const bool whole = rule.all_visible(transposed ? 0 : first_row);
  if (rule.slope == 0 && whole) {
#pragma unroll
    for (int band = 0; band < bands; ++band)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[band][n][e] *= z_scale;
    return;
  }
#pragma unroll
  for (int band = 0; band < bands; ++band) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int a = first_row + band * 16 + element_row(e), b = element_column(n, e);
        const int row = transposed ? b : a, column = transposed ? a : b;
        const float z = fmaf(s[band][n][e], z_scale, rule.bias(row, column));
        s[band][n][e] = whole || rule.visible(row, column) ? z : -kInfinity;
      }
    }
  }
}

/// First set bit of the mask at or after `from`, or -1.
__device__ inline int next_set(const uint32_t* mask, int words, int from) {
  int word = from / 32;
  if (word >= words) return -1;
  uint32_t bits = mask[word] & (0xFFFFFFFFU << (from % 32));
  while (bits == 0) {
    if (++word == words) return -1;
    bits = mask[word];
  }
  return word * 32 + __ffs(bits) - 1;
}

/// Numbers of the tile that are not finite become 0. The block must not read the tile meanwhile.
template <typename T, int columns>
__device__ inline void clear_broken(char* tile) {
  for (int i = threadIdx.x; i < kTile * columns; i += kThreads) {
    T* number = reinterpret_cast<T*>(tile + i / columns * Tile<T, columns>::kStride) + i % columns;
    if (!(fabsf(static_cast<float>(*number)) < kInfinity)) *number = T(0.0F);
  }
}

}  // namespace asplash::kernels::portable
