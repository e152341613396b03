#pragma once

#include <type_traits>

#include "launch.cuh"

/// What the forward and the backward in fp32 share: tiles of 64 x 64 pairs, computed by 256 threads.
///
/// A thread has 4 x 4 pairs: rows own_row() + i and columns own_column() + 16 j. The 16 threads of a row are
/// half a warp, so that sums over a row are shuffles. Tokens come through shared memory in chunks of 32 of
/// the head dimension, whatever that is; a thread's four columns lie 16 apart so that eight threads reading
/// 16 bytes each of rows 36 floats apart meet all banks once.
///
/// A product is summed over the head dimension in ascending order, by fused multiply-adds, in every kernel
/// and for either order of the factors: all kernels see bitwise the same scores, hence the same supports.
/// That is what lets the backward trust the forward's tile mask.
namespace asplash::kernels::portable::fp32 {

constexpr int kThreads = 256;
constexpr int kOwn = 4;     // rows, and columns, of a thread
constexpr int kLanes = 16;  // threads of a row
constexpr int kChunk = 32;  // of the head dimension
constexpr int kChunkStride = kChunk + 4;
constexpr int kChunkSize = kTile * kChunkStride;  // floats
constexpr int kPairStride = kTile + 4;
constexpr int kPairSize = kTile * kPairStride;
using Tile = float[kOwn][kOwn];
/// A thread's part of [64, head_dim]: rows own_row() + i, columns 32 c + 2 own_column() and the next.
template <int head_dim>
using RowSum = float[head_dim / kChunk][kOwn][2];

__device__ inline int own_row() { return static_cast<int>(threadIdx.x) / kLanes * kOwn; }
__device__ inline int own_column() { return static_cast<int>(threadIdx.x) % kLanes; }

/// Combines one value per thread of a row in a fixed order; every one of them gets the same bits, as the
/// operations commute.
template <class T, class F>
__device__ inline T combine_row(T value, F combine) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(~0U, value, offset));
  }
  return value;
}
template <class T>
__device__ inline T add_row(T value) {
  return combine_row(value, [](T a, T b) { return a + b; });
}
__device__ inline float max_row(float value) {
  return combine_row(value, [](float a, float b) { return fmaxf(a, b); });
}
__device__ inline unsigned or_row(unsigned value) {
  return combine_row(value, [](unsigned a, unsigned b) { return a | b; });
}

/// Up to 64 tokens of one head.
struct TokenTile {
  const float* data;
  int64_t token_stride;
  int tokens;
};

/// Tokens [first, first + 64) of a document's `length` tokens that start at `begin`.
__device__ inline TokenTile token_tile(const AttentionTensor& tensor, int batch, int head, int begin,
                                       int length, int first) {
  return {token_pointer<const float>(tensor, batch, head, begin + first), tensor.token_stride,
          min(length - first, kTile)};
}

/// What stands in shared memory for numbers that must not meet a zero weight, as 0 * NaN is NaN.
enum class Take {
  all,            // as they are
  finite,         // zero for numbers that are not finite
  with_threshold  // zeros for tokens whose tau is not finite
};

/// Copies columns [first, first + 32) of the tile to shared memory, zeros after its last token. Bit i of the
/// result: token threadIdx.x / 8 + 32 i has a number that is not finite (Take::finite only; in its eight
/// threads together).
template <Take take = Take::all>
__device__ inline unsigned load_chunk(float* chunk, const TokenTile& tile, int first,
                                      const float* tau = nullptr) {
  constexpr int kPerToken = kChunk / 4, kTokens = kThreads / kPerToken;
  unsigned broken = 0;
#pragma unroll
  for (int i = 0; i < kTile / kTokens; ++i) {
    const int token = static_cast<int>(threadIdx.x) / kPerToken + kTokens * i;
    const int column = static_cast<int>(threadIdx.x) % kPerToken * 4;
    float4 x = make_float4(0, 0, 0, 0);
    bool present = token < tile.tokens;
    if (take == Take::with_threshold) present = present && fabsf(tau[token]) < kInfinity;
    if (present) {
      x = *reinterpret_cast<const float4*>(tile.data + token * tile.token_stride + first + column);
    }
    if (take == Take::finite) {
      const auto finite = [&](float& number) {
        if (fabsf(number) < kInfinity) return;
        number = 0;
        broken |= 1U << i;
      };
      finite(x.x), finite(x.y), finite(x.z), finite(x.w);
    }
    *reinterpret_cast<float4*>(chunk + token * kChunkStride + column) = x;
  }
  return broken;
}

__device__ inline float4 float4_at(const float* shared) { return *reinterpret_cast<const float4*>(shared); }

/// product[i][j] = rows[own_row() + i] . columns[own_column() + 16 j]. Both chunks of shared memory may be
/// written again after the next __syncthreads().
template <int head_dim>
__device__ inline void multiply_tiles(const TokenTile& rows, const TokenTile& columns, float* row_chunk,
                                      float* column_chunk, Tile& product) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) product[i][j] = 0;
  }
#pragma unroll 1
  for (int first = 0; first < head_dim; first += kChunk) {
    __syncthreads();
    load_chunk(row_chunk, rows, first);
    load_chunk(column_chunk, columns, first);
    __syncthreads();
    const float* const a = row_chunk + own_row() * kChunkStride;
    const float* const b = column_chunk + own_column() * kChunkStride;
#pragma unroll 1
    for (int x = 0; x < kChunk; x += 4) {
      float4 column[kOwn];
#pragma unroll
      for (int j = 0; j < kOwn; ++j) column[j] = float4_at(b + j * kLanes * kChunkStride + x);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const float4 row = float4_at(a + i * kChunkStride + x);
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          float sum = product[i][j];
          sum = fmaf(row.x, column[j].x, sum);
          sum = fmaf(row.y, column[j].y, sum);
          sum = fmaf(row.z, column[j].z, sum);
          product[i][j] = fmaf(row.w, column[j].w, sum);
        }
      }
    }
  }
}

/// Lays a tile of pairs down in shared memory. Only the half warp that wrote a row reads it.
__device__ inline void store_pairs(float* pairs, const Tile& tile) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      pairs[(own_row() + i) * kPairStride + own_column() + kLanes * j] = tile[i][j];
    }
  }
}

/// sum += pairs [64, 64] chunk [64, 32]
__device__ inline void add_product(const float* pairs, const float* chunk, float (&sum)[kOwn][2]) {
  const float* const a = pairs + own_row() * kPairStride;
  const float* const b = chunk + 2 * own_column();
#pragma unroll 1
  for (int token = 0; token < kTile; token += 4) {
    float2 x[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) x[t] = *reinterpret_cast<const float2*>(b + (token + t) * kChunkStride);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float4 w = float4_at(a + i * kPairStride + token);
      sum[i][0] = fmaf(w.x, x[0].x, sum[i][0]), sum[i][1] = fmaf(w.x, x[0].y, sum[i][1]);
      sum[i][0] = fmaf(w.y, x[1].x, sum[i][0]), sum[i][1] = fmaf(w.y, x[1].y, sum[i][1]);
      sum[i][0] = fmaf(w.z, x[2].x, sum[i][0]), sum[i][1] = fmaf(w.z, x[2].y, sum[i][1]);
      sum[i][0] = fmaf(w.w, x[3].x, sum[i][0]), sum[i][1] = fmaf(w.w, x[3].y, sum[i][1]);
    }
  }
}

template <int head_dim>
__device__ inline void clear(RowSum<head_dim>& sum) {
#pragma unroll
  for (auto& chunk : sum) {
#pragma unroll
    for (auto& row : chunk) row[0] = row[1] = 0;
  }
}

/// Writes a thread's part of row i, times factor.
template <int head_dim>
__device__ inline void store_row(float* row, const RowSum<head_dim>& sum, int i, float factor) {
#pragma unroll
  for (int c = 0; c < head_dim / kChunk; ++c) {
    *reinterpret_cast<float2*>(row + c * kChunk + 2 * own_column()) =
        make_float2(sum[c][i][0] * factor, sum[c][i][1] * factor);
  }
}

/// From products to scores, for one head and document; tokens count from the document's first.
struct Scores {
  float z_scale, slope;
  int offset, q_length, k_length;
  bool causal;

  /// Keys that a row sees: [0, visible_keys). None for rows after the last.
  __device__ int visible_keys(int row) const {
    if (row >= q_length) return 0;
    return causal ? min(max(row + offset + 1, 0), k_length) : k_length;
  }
  __device__ float operator()(float product, int row, int key) const {
    const auto distance = static_cast<float>(abs(row + offset - key));
    return fmaf(-slope, distance, __fmul_rn(product, z_scale));
  }
};

__device__ inline Scores scores_of(const Launch& launch, const Document& d, int head) {
  const float* const slopes = launch.params.slopes;
  return {launch.z_scale, slopes == nullptr ? 0.0F : launch.slope_scale * slopes[head],
          d.offset(),     d.q_length,
          d.k_length,     launch.params.causal};
}

/// w = p^(2 - alpha) = u^(r - 1), and p = w u; zero unless u > 0. A power by exp2 and log2 errs by epsilon
/// times the exponent of its result, so only tiny weights lose digits; powf would take four times the
/// instructions.
__device__ inline float slope_weight(float u, float exponent) {
  if (!(u > 0)) return 0;
  if (exponent == 2) return u;
  if (exponent == 1) return 1;
  return exp2f((exponent - 1) * log2f(u));
}

/// Index of a row's number in [batch, heads, q_tokens].
__device__ inline int64_t row_index(const EntmaxAttentionShape& s, int batch, int head, int token) {
  return (int64_t{batch} * s.heads + head) * s.q_tokens + token;
}

/// The mask of a row tile, over the key tiles of its document.
__device__ inline uint32_t* mask_of(const EntmaxAttentionParams& p, int batch, int head, int row_tile) {
  const EntmaxAttentionShape& s = p.shape;
  return p.tile_mask + ((int64_t{batch} * s.heads + head) * s.row_tiles() + row_tile) * s.mask_words();
}

/// Calls launch_kernel(std::integral_constant<int, head_dim>) for the head dimension.
template <class F>
cudaError_t for_head_dim(int head_dim, F launch_kernel) {
  switch (head_dim) {
    case 32:
      return launch_kernel(std::integral_constant<int, 32>());
    case 64:
      return launch_kernel(std::integral_constant<int, 64>());
    case 96:
      return launch_kernel(std::integral_constant<int, 96>());
    case 128:
      return launch_kernel(std::integral_constant<int, 128>());
    case 256:
      return launch_kernel(std::integral_constant<int, 256>());
    default:
      return cudaErrorInvalidValue;
  }
}

/// One block of kThreads for each of `tiles`, heads and batch entries.
inline cudaError_t launch_tiles(void (*kernel)(Launch), const Launch& launch, int tiles, int heads,
                                int shared_bytes, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(heads),
                  static_cast<unsigned>(launch.params.shape.batch));
  kernel<<<grid, kThreads, static_cast<size_t>(shared_bytes), stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace asplash::kernels::portable::fp32
