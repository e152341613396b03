#pragma once

#include "portable/entmax_backward.cuh"

/// Small kernels around the large ones: how large keys, values and rows are, and dQ from its sums.
namespace asplash::kernels::portable {

/// Norm of the finite numbers of one token's row, by a warp; `broken` where one is not finite. largest: of
/// each finite number, at [i] for the numbers 2 (lane + 32 i) and the next.
template <typename T, int head_dim>
__device__ inline float token_norm(const T* token, bool& broken, float2 (&largest)[(head_dim + 63) / 64]) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(token);
  float square = 0;
#pragma unroll
  for (int i = 0; i < (head_dim + 63) / 64; ++i) {
    const int word = threadIdx.x % 32 + i * 32;
    if (word >= head_dim / 2) continue;
    float2 x = Element<T>::unpack(words[word]);
    x = {fabsf(x.x), fabsf(x.y)};
    if (!(x.x < kInfinity)) x.x = 0, broken = true;
    if (!(x.y < kInfinity)) x.y = 0, broken = true;
    square = fmaf(x.x, x.x, fmaf(x.y, x.y, square));
    largest[i] = {fmaxf(largest[i].x, x.x), fmaxf(largest[i].y, x.y)};
  }
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(0xFFFFFFFFU, square, step);
  return sqrtf(square);
}

/// For non-negative numbers, whose bits order like integers.
__device__ inline void atomic_max(float* address, float x) {
  atomicMax(reinterpret_cast<int*>(address), __float_as_int(x));
}

/// KeyTileFacts of each key tile, one block a tile; with `maxima` (zeroed before) also those of columns and
/// values.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads)
    key_facts_kernel(const __grid_constant__ Launch launch, bool maxima) {
  const EntmaxAttentionParams& p = launch.params;
  const Document document = document_with_tile(launch, launch.key_tile_begin, blockIdx.x);
  const int key0 = (static_cast<int>(blockIdx.x) - document.key_tile_begin) * kTile;
  if (key0 >= document.k_length) return;
  constexpr int kWords = (head_dim + 63) / 64;
  const int keys = min(kTile, document.k_length - key0), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float2 columns[kWords] = {}, unused[kWords] = {};
  float key_norm = 0, value_norm = 0;
  bool key_broken = false, value_broken = false;
  for (int row = warp; row < keys; row += kWarps) {
    const int token = document.k_begin + key0 + row;
    key_norm =
        fmaxf(key_norm, token_norm<T, head_dim>(token_pointer<const T>(p.key, blockIdx.z, blockIdx.y, token),
                                                key_broken, columns));
    value_norm = fmaxf(value_norm,
                       token_norm<T, head_dim>(token_pointer<const T>(p.value, blockIdx.z, blockIdx.y, token),
                                               value_broken, unused));
  }
  __shared__ float norms[2][kWarps];
  key_broken = __syncthreads_or(key_broken);
  value_broken = __syncthreads_or(value_broken);
  if (lane == 0) {
    norms[0][warp] = key_norm;
    norms[1][warp] = value_norm;
  }
  const int64_t kv_index = int64_t{blockIdx.z} * p.shape.kv_heads + blockIdx.y;
  if (maxima) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int word = lane + i * 32;
      if (word >= head_dim / 2) continue;
      float* column = launch.column_maximum + kv_index * head_dim + word * 2;
      atomic_max(column, columns[i].x);
      atomic_max(column + 1, columns[i].y);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) {
    key_norm = fmaxf(key_norm, norms[0][i]);
    value_norm = fmaxf(value_norm, norms[1][i]);
  }
  if (maxima) atomic_max(launch.value_maximum + kv_index, value_norm);
  launch.key_facts[kv_index * p.shape.key_tiles() + blockIdx.x] = {key_broken ? kInfinity : key_norm,
                                                                   value_broken ? kInfinity : value_norm};
}

/// delta and quanta of each row; a warp a row.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads) row_facts_kernel(const __grid_constant__ Launch launch) {
  const EntmaxAttentionParams& p = launch.params;
  const int token = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= p.shape.q_tokens) return;
  const int64_t row = (int64_t{blockIdx.z} * p.shape.heads + blockIdx.y) * p.shape.q_tokens + token;
  const uint32_t* mean =
      reinterpret_cast<const uint32_t*>(static_cast<const T*>(p.mean_value) + row * head_dim);
  const uint32_t* grad = reinterpret_cast<const uint32_t*>(
      token_pointer<const T>(launch.gradients.grad_out, blockIdx.z, blockIdx.y, token));
  float delta = 0, square = 0;
#pragma unroll
  for (int i = 0; i < (head_dim + 63) / 64; ++i) {
    const int word = lane + i * 32;
    if (word >= head_dim / 2) continue;
    const float2 a = Element<T>::unpack(mean[word]), b = Element<T>::unpack(grad[word]);
    delta = fmaf(a.x, b.x, fmaf(a.y, b.y, delta));
    square = fmaf(b.x, b.x, fmaf(b.y, b.y, square));
  }
  for (int step = 16; step > 0; step /= 2) {
    delta += __shfl_xor_sync(0xFFFFFFFFU, delta, step);
    square += __shfl_xor_sync(0xFFFFFFFFU, square, step);
  }
  if (lane != 0) return;
  const int kv_head = blockIdx.y / (p.shape.heads / p.shape.kv_heads);
  const float value = launch.value_maximum[int64_t{blockIdx.z} * p.shape.kv_heads + kv_head];
  // Rows without keys may hold anything, too.
  const bool broken = !(fabsf(p.tau[row]) < kInfinity);
  // Twice: weight_sum was taken within rounding of tau, dS is rounded.
  const float bound = 2 * p.weight_sum[row] * 2 * sqrtf(square) * value;
  launch.delta[row] = broken ? 0 : delta;
  launch.row_quanta[row] = broken ? 1 : row_quanta(bound);
  if (broken) launch.broken_rows[int64_t{blockIdx.z} * p.shape.heads + blockIdx.y] = 1;
}

/// dQ from its sums: a block takes 8 tokens of one head, a thread 8 columns of one token.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads) finish_grad_query_kernel(const __grid_constant__ Launch launch) {
  const EntmaxAttentionParams& p = launch.params;
  const int64_t head_index = int64_t{blockIdx.z} * p.shape.heads + blockIdx.y;
  const int kv_head = blockIdx.y / (p.shape.heads / p.shape.kv_heads);
  const float* maxima = launch.column_maximum + (int64_t{blockIdx.z} * p.shape.kv_heads + kv_head) * head_dim;
  for (int i = threadIdx.x; i < head_dim; i += kThreads) {
    const int group = i % (head_dim / 8), row = i / (head_dim / 8), token = blockIdx.x * 8 + row;
    if (token >= p.shape.q_tokens) continue;
    const int64_t index = head_index * p.shape.q_tokens + token;
    // Integers cannot tell that a gradient of the output was not finite; delta can.
    const bool broken = isnan(p.tau[index]) || !(fabsf(launch.delta[index]) < kInfinity);
    const float factor = broken ? NAN : p.scale / launch.row_quanta[index];
    const ulonglong2* sums = reinterpret_cast<const ulonglong2*>(launch.grad_query_sum +
                                                                 (index * p.shape.head_dim + group * 8) / 2);
    const auto pair = [&](unsigned long long sum, int column) {
      const int2 parts = PairOfSums::parts(sum);
      const float* maximum = maxima + group * 8 + column;
      return Element<T>::pack(static_cast<float>(parts.x) / column_quanta(maximum[0]) * factor,
                              static_cast<float>(parts.y) / column_quanta(maximum[1]) * factor);
    };
    const ulonglong2 first = sums[0], second = sums[1];
    T* out = token_pointer<T>(launch.gradients.grad_query, blockIdx.z, blockIdx.y, token) + group * 8;
    *reinterpret_cast<uint4*>(out) = {pair(first.x, 0), pair(first.y, 2), pair(second.x, 4),
                                      pair(second.y, 6)};
  }
}

}  // namespace asplash::kernels::portable
