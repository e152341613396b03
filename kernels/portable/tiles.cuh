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

/// A unit: 16 bytes, 8 numbers of a row.
template <typename T>
__device__ inline void unpack_unit(const uint4& unit, float (&x)[8]) {
  const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Element<T>::unpack(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}
template <typename T>
__device__ inline void store_unit(T* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) = {Element<T>::pack(x[0], x[1]), Element<T>::pack(x[2], x[3]),
                                   Element<T>::pack(x[4], x[5]), Element<T>::pack(x[6], x[7])};
}

/// Rows of `columns` 16-bit numbers in shared memory. A row is padded by 16 bytes: an odd number of 16-byte
/// units, so that the 8 rows of an ldmatrix fall into different banks.
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
      if (rows >= total) {
#pragma unroll
        for (int row = 0; row < total; row += kRowsAtOnce) {
          copy_async(tile + row * kStride, source);
          source += kRowsAtOnce * row_stride;
        }
        return;
      }
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

  /// Starts the copy of kTile rows of two sources; row(slot) is the number of the one that goes to a slot.
  template <typename Row>
  static __device__ void gather(Row row, uint32_t tile, const T* source, int row_stride, uint32_t other_tile,
                                const T* other_source, int other_row_stride) {
    constexpr int kUnits = columns / 8, kCopies = kTile * kUnits / kThreads;
    int numbers[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) numbers[i] = row((threadIdx.x + i * kThreads) / kUnits);
    const auto copy = [&](uint32_t to, const T* from, int stride) {
      if constexpr (kThreads % kUnits == 0) {
        // One thread, one unit of many rows: each address is one multiplication and addition.
        const char* unit = reinterpret_cast<const char*>(from) + threadIdx.x % kUnits * 16;
        to += threadIdx.x / kUnits * kStride + threadIdx.x % kUnits * 16;
#pragma unroll
        for (int i = 0; i < kCopies; ++i)
          copy_async(to + i * (kThreads / kUnits) * kStride,
                     unit + int64_t{numbers[i]} * (stride * static_cast<int>(sizeof(T))));
      } else {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int at = threadIdx.x + i * kThreads, slot = at / kUnits, unit = at % kUnits;
          copy_async(to + slot * kStride + unit * 16, from + int64_t{numbers[i]} * stride + unit * 8);
        }
      }
    };
    copy(tile, source, row_stride);
    copy(other_tile, other_source, other_row_stride);
  }

  /// Rows [row, row + 16), columns [column, column + 16), as the left operand.
  static __device__ Fragment left(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    return load_matrix(tile + (row + lane % 16) * kStride + (column + lane / 16 * 8) * 2);
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

/// A warp's products, bands x 16 rows with groups x 8 columns: [band][column / 8][fragment element].
template <int bands, int groups = 8>
using Scores = float[bands][groups][4];

/// s = left rows . right rows over `columns`. left_fragment(band, k) gives the left operand of columns
/// [16 k, 16 k + 16); right_tile: the first of groups x 8 rows.
template <typename T, int columns, int bands, int groups, typename LeftFragment>
__device__ inline void multiply_rows(Scores<bands, groups>& s, LeftFragment left_fragment,
                                     uint32_t right_tile) {
#pragma unroll
  for (int band = 0; band < bands; ++band)
#pragma unroll
    for (int n = 0; n < groups; ++n) s[band][n][0] = s[band][n][1] = s[band][n][2] = s[band][n][3] = 0;
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) {
    Fragment a[bands];
#pragma unroll
    for (int band = 0; band < bands; ++band) a[band] = left_fragment(band, k);
#pragma unroll
    for (int n = 0; n < groups / 2; ++n) {
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

/// Column and row of fragment element e of column group n for this thread; rows counted from the band's
/// first.
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

/// Over the warp's lanes up to this one.
__device__ inline int sum_up_to_lane(int x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFU, x, step);
    if (static_cast<int>(threadIdx.x % 32) >= step) x += other;
  }
  return x;
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
  if (exponent == 2.0F)
    f(PowerTag<Power::square>{});
  else if (exponent == 1.0F)
    f(PowerTag<Power::linear>{});
  else
    f(PowerTag<Power::general>{});
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

  /// Whether rows [first_row, ..) see all of the tile's first `width` keys.
  __device__ bool all_visible(int first_row, int width) const {
    return first_key + width <= keys && (!causal || first_key + width - 1 <= row_position + first_row);
  }
  __device__ bool visible(int row, int column) const {
    const int key = first_key + column;
    return key < keys && (!causal || key <= row_position + row);
  }
};

/// Products -> z; `masked`: -infinity where the pair does not exist, else all pairs must. `transposed`: s has
/// keys as rows. first_row: of s; bands are `apart_bands` rows apart.
template <bool transposed, bool masked, int apart_bands = 16, int bands, int groups>
__device__ inline void to_z(Scores<bands, groups>& s, const PairRule& rule, float z_scale, int first_row) {
  const int lane_column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int band = 0; band < bands; ++band) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + band * apart_bands + element_row(2 * r);
      // How far the query stands behind the key, in fp32: exact below 2^24 tokens.
      const int apart =
          rule.row_position - rule.first_key + (transposed ? lane_column - row : row - lane_column);
      const float distance = static_cast<float>(apart);
      const int columns = rule.keys - rule.first_key - lane_column;
      const bool row_is_key = row < rule.keys - rule.first_key;
#pragma unroll
      for (int n = 0; n < groups; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int column = n * 8 + c;
          const float behind = transposed ? distance + column : distance - column;
          float& x = s[band][n][2 * r + c];
          x = fmaf(x, z_scale, -rule.slope * fabsf(behind));
          if (!masked) continue;
          const bool exists = (transposed ? row_is_key : column < columns) && (!rule.causal || behind >= 0);
          if (!exists) x = -kInfinity;
        }
      }
    }
  }
}

/// Numbers [base, base + kThreads) below `limit` for which active(number) is true, in order, and how many; in
/// shared memory. The block meets twice, the second time at the end.
template <typename Active>
__device__ inline void make_list(int base, int limit, int* list, int& listed, Active active) {
  __shared__ int counts[kWarps];
  const int number = base + threadIdx.x, warp = threadIdx.x / 32;
  const bool in = number < limit && active(number);
  const uint32_t ballot = __ballot_sync(0xFFFFFFFFU, in);
  if (threadIdx.x % 32 == 0) counts[warp] = __popc(ballot);
  __syncthreads();
  int before = __popc(ballot & ((1U << (threadIdx.x % 32)) - 1)), total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += counts[i];
    total += counts[i];
  }
  if (in) list[before] = number;
  if (threadIdx.x == 0) listed = total;
  __syncthreads();
}

/// Which of a tile's rows may give weight to a tile of keys: x has the bits of rows 0 to 31, y of 32 to 63,
/// as ballots over fragments give them.
__device__ inline int row_of_bit(int bit) { return bit % 4 / 2 * 16 + bit % 2 * 8 + bit / 4; }
/// The other way, of a row below 32.
__device__ inline int bit_of_row(int row) { return row % 8 * 4 + row / 16 * 2 + row / 8 % 2; }

/// The bits of a tile's first `rows` rows.
__device__ inline uint2 bits_of_rows(int rows) {
  uint2 bits = {0, 0};
  for (int bit = 0; bit < 32; ++bit) {
    bits.x |= (row_of_bit(bit) < rows ? 1U : 0U) << bit;
    bits.y |= (row_of_bit(bit) + 32 < rows ? 1U : 0U) << bit;
  }
  return bits;
}

/// Row bits in memory have `bytes` for each key tile; where that is less than 8, bits stand for several rows.
__device__ inline void store_row_bits(uint32_t* of_row_tile, int key_tile, int bytes, uint2 bits) {
  const uint32_t halves = bits.x | bits.y, quarters = halves | halves >> 16;
  if (bytes == 8)
    reinterpret_cast<uint2*>(of_row_tile)[key_tile] = bits;
  else if (bytes == 4)
    of_row_tile[key_tile] = halves;
  else if (bytes == 2)
    reinterpret_cast<uint16_t*>(of_row_tile)[key_tile] = static_cast<uint16_t>(quarters);
  else
    reinterpret_cast<uint8_t*>(of_row_tile)[key_tile] = static_cast<uint8_t>(quarters | quarters >> 8);
}
__device__ inline uint2 load_row_bits(const uint32_t* of_row_tile, int key_tile, int bytes) {
  if (bytes == 8) return reinterpret_cast<const uint2*>(of_row_tile)[key_tile];
  const uint32_t bits = bytes == 4   ? of_row_tile[key_tile]
                        : bytes == 2 ? reinterpret_cast<const uint16_t*>(of_row_tile)[key_tile] * 0x10001U
                                     : reinterpret_cast<const uint8_t*>(of_row_tile)[key_tile] * 0x1010101U;
  return {bits, bits};
}

/// Numbers of the tile that are not finite become 0. The block must not read the tile meanwhile.
template <typename T, int columns>
__device__ inline void clear_broken(char* tile) {
  int first = threadIdx.x;
  asm volatile("" : "+r"(first));  // rare: nothing of this is computed ahead and kept in registers
#pragma unroll 1
  for (int i = first; i < kTile * columns; i += kThreads) {
    T* number = reinterpret_cast<T*>(tile + i / columns * Tile<T, columns>::kStride) + i % columns;
    if (!(fabsf(static_cast<float>(*number)) < kInfinity)) *number = T(0.0F);
  }
}

}  // namespace asplash::kernels::portable
