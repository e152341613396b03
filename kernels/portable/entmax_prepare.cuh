#pragma once

#include "portable/entmax_backward.cuh"

/// Small kernels around the large ones: how large keys, values and rows are, and dQ from its sums. They move
/// memory and little else: every thread takes 16 bytes of several rows at once. (A warp a row and a row at a
/// time, with maxima of columns straight to global memory, took twice as long: 0.1 of 1.7 ms at 4096 tokens.)
namespace asplash::kernels::portable {

/// How a block goes over rows: kLanes threads take a row, 8 numbers each.
template <int head_dim>
struct RowWalk {
  static constexpr int kUnits = head_dim / 8;
  static constexpr int kLanes = kUnits <= 4 ? 4 : kUnits <= 8 ? 8 : kUnits <= 16 ? 16 : 32;
  static constexpr int kAtOnce = kThreads / kLanes;  ///< rows
  static constexpr int kPasses = 4;
  static constexpr int kRows = kAtOnce * kPasses;  ///< of a block, where it takes rows only

  static __device__ int first_row() { return threadIdx.x / kLanes; }
  static __device__ int unit() { return threadIdx.x % kLanes; }
  static __device__ bool has_unit() { return kUnits == kLanes || unit() < kUnits; }
  static __device__ float sum(float x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, step);
    return x;
  }
};

/// Numbers that are not finite become 0; whether there was none.
__device__ inline bool clear_broken(float (&x)[8]) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const bool is = fabsf(x[i]) < kInfinity;
    finite &= is;
    x[i] = is ? x[i] : 0;
  }
  return finite;
}

__device__ inline float square_of(const float (&x)[8]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(x[i], x[i], sum);
  return sum;
}

/// For non-negative numbers, whose bits order like integers. Most find a larger one there.
__device__ inline void atomic_max(float* address, float x) {
  if (x > *reinterpret_cast<volatile float*>(address))
    atomicMax(reinterpret_cast<int*>(address), __float_as_int(x));
}

/// Over the block; in all threads. The block meets.
__device__ inline float block_max(float x, float (&of_warps)[kWarps]) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, step));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) x = fmaxf(x, of_warps[i]);
  return x;
}

/// KeyTileFacts of a global key tile; with `maxima` (zeroed before) also those of columns and values.
template <typename T, int head_dim, bool maxima>
__device__ inline void take_key_tile(const Launch& launch, int tile, int kv_head, int batch) {
  using Walk = RowWalk<head_dim>;
  const EntmaxAttentionParams& p = launch.params;
  const Document document = document_with_tile(launch, launch.key_tile_begin, tile);
  const int key0 = (tile - document.key_tile_begin) * kTile;
  if (key0 >= document.k_length) return;
  __shared__ float of_warps[2][kWarps];
  __shared__ int columns[maxima ? head_dim : 1];
  if (maxima) {
    for (int i = threadIdx.x; i < head_dim; i += kThreads) columns[i] = 0;
  }
  const int keys = min(kTile, document.k_length - key0), token = document.k_begin + key0;
  const T* key = token_pointer<const T>(p.key, batch, kv_head, token) + Walk::unit() * 8;
  const T* value = token_pointer<const T>(p.value, batch, kv_head, token) + Walk::unit() * 8;
  float key_norm = 0, value_norm = 0, largest[8] = {};
  bool keys_finite = true, values_finite = true;
#pragma unroll(head_dim <= 128 ? 4 : 2)
  for (int pass = 0; pass < kTile / Walk::kAtOnce; ++pass) {
    const int row = pass * Walk::kAtOnce + Walk::first_row();
    uint4 units[2] = {};
    if (row < keys && Walk::has_unit()) {
      units[0] = __ldg(reinterpret_cast<const uint4*>(key + row * p.key.token_stride));
      units[1] = __ldg(reinterpret_cast<const uint4*>(value + row * p.value.token_stride));
    }
    float x[8];
    unpack_unit<T>(units[0], x);
    keys_finite &= clear_broken(x);
    key_norm = fmaxf(key_norm, Walk::sum(square_of(x)));
    if (maxima) {
#pragma unroll
      for (int i = 0; i < 8; ++i) largest[i] = fmaxf(largest[i], fabsf(x[i]));
    }
    unpack_unit<T>(units[1], x);
    values_finite &= clear_broken(x);
    value_norm = fmaxf(value_norm, Walk::sum(square_of(x)));
  }
  keys_finite = __syncthreads_and(keys_finite);
  values_finite = __syncthreads_and(values_finite);
  const int64_t kv_index = int64_t{batch} * p.shape.kv_heads + kv_head;
  if (maxima) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int step = Walk::kLanes; step < 32; step *= 2)
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xFFFFFFFFU, largest[i], step));
      if (threadIdx.x % 32 < Walk::kLanes && Walk::has_unit())
        atomicMax(columns + (maxima ? Walk::unit() * 8 + i : 0), __float_as_int(largest[i]));
    }
  }
  key_norm = sqrtf(block_max(key_norm, of_warps[0]));
  value_norm = sqrtf(block_max(value_norm, of_warps[1]));
  if (maxima) {
    for (int i = threadIdx.x; i < head_dim; i += kThreads)
      atomic_max(launch.column_maximum + kv_index * head_dim + i, __int_as_float(columns[i]));
  }
  if (threadIdx.x != 0) return;
  if (maxima) atomic_max(launch.value_maximum + kv_index, value_norm);
  launch.key_facts[kv_index * p.shape.key_tiles() + tile] = {keys_finite ? key_norm : kInfinity,
                                                             values_finite ? value_norm : kInfinity};
}

/// delta and bounds of a block of rows; clears their sums.
template <typename T, int head_dim>
__device__ inline void take_rows(const Launch& launch, int block, int head, int batch) {
  using Walk = RowWalk<head_dim>;
  const EntmaxAttentionParams& p = launch.params;
  const int64_t head_index = int64_t{batch} * p.shape.heads + head;
  const int first = block * Walk::kRows + Walk::first_row();
  const T* means = static_cast<const T*>(p.mean_value) + head_index * p.shape.q_tokens * head_dim;
  uint4 mean[Walk::kPasses] = {}, grad[Walk::kPasses] = {};
#pragma unroll
  for (int pass = 0; pass < Walk::kPasses; ++pass) {
    const int token = first + pass * Walk::kAtOnce;
    if (token >= p.shape.q_tokens || !Walk::has_unit()) continue;
    mean[pass] = __ldg(reinterpret_cast<const uint4*>(means + int64_t{token} * head_dim) + Walk::unit());
    grad[pass] = __ldg(reinterpret_cast<const uint4*>(
                           token_pointer<const T>(launch.gradients.grad_out, batch, head, token)) +
                       Walk::unit());
    uint4* sums = reinterpret_cast<uint4*>(launch.grad_query_sum +
                                           (head_index * p.shape.q_tokens + token) * (head_dim / 2));
    sums[Walk::unit()] = sums[Walk::unit() + Walk::kUnits] = {0, 0, 0, 0};
  }
#pragma unroll
  for (int pass = 0; pass < Walk::kPasses; ++pass) {
    const int token = first + pass * Walk::kAtOnce;
    float a[8], b[8], dot = 0;
    unpack_unit<T>(mean[pass], a);
    unpack_unit<T>(grad[pass], b);
#pragma unroll
    for (int i = 0; i < 8; ++i) dot = fmaf(a[i], b[i], dot);
    const float delta = Walk::sum(dot), square = Walk::sum(square_of(b));
    if (token >= p.shape.q_tokens || Walk::unit() != 0) continue;
    const int64_t row = head_index * p.shape.q_tokens + token;
    // Rows without keys may hold anything, too.
    const bool broken = !(fabsf(p.tau[row]) < kInfinity);
    launch.delta[row] = broken ? 0 : delta;
    // Twice: weight_sum was taken within rounding of tau, dS is rounded.
    launch.row_bound[row] = broken ? 0 : 2 * p.weight_sum[row] * 2 * sqrtf(square);
    if (broken) launch.broken_rows[head_index] = 1;
  }
}

/// KeyTileFacts of each key tile, one block a tile. Clears what the support says of heads.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads) key_facts_kernel(const __grid_constant__ Launch launch) {
  const EntmaxAttentionParams& p = launch.params;
  wait_and_let_next_kernel_begin();
  if (p.support != nullptr && blockIdx.x == 0) {
    const int group = p.shape.heads / p.shape.kv_heads;
    for (int member = threadIdx.x; member < group; member += kThreads)
      support_of_head(p, (int64_t{blockIdx.z} * p.shape.kv_heads + blockIdx.y) * group + member) = {};
  }
  take_key_tile<T, head_dim, false>(launch, blockIdx.x, blockIdx.y, blockIdx.z);
}

/// The same with maxima, and after them the blocks that take rows; of heads that go by tiles.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, 4) backward_facts_kernel(const __grid_constant__ Launch launch) {
  const EntmaxAttentionShape& shape = launch.params.shape;
  const int key_tiles = shape.key_tiles();
  const int key_blocks = shape.k_tokens > 0 ? key_tiles * shape.kv_heads : 0;  // as in launch_tiles
  const int block = blockIdx.x;
  if (block < key_blocks) {
    const int kv_head = block / key_tiles;
    if (!BackwardWays::of_group(launch.params, int64_t{blockIdx.y} * shape.kv_heads + kv_head).tiles) {
      leave_without_work();
      return;
    }
    wait_for_kernels_before();
    take_key_tile<T, head_dim, true>(launch, block % key_tiles, kv_head, blockIdx.y);
    return;
  }
  constexpr int kRows = RowWalk<head_dim>::kRows;
  const int row_blocks = (shape.q_tokens + kRows - 1) / kRows, index = block - key_blocks;
  const int head = index / row_blocks;
  if (!BackwardWays::of_head(launch.params, int64_t{blockIdx.y} * shape.heads + head).tiles) {
    leave_without_work();
    return;
  }
  wait_for_kernels_before();
  take_rows<T, head_dim>(launch, index % row_blocks, head, blockIdx.y);
}

/// dQ from its sums, of rows that go by tiles: a thread takes 8 columns of several tokens of one head.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads) finish_grad_query_kernel(const __grid_constant__ Launch launch) {
  using Walk = RowWalk<head_dim>;
  const EntmaxAttentionParams& p = launch.params;
  const int64_t head_index = int64_t{blockIdx.z} * p.shape.heads + blockIdx.y;
  const BackwardWays ways = BackwardWays::of_head(p, head_index);
  if (!ways.tiles) {
    leave_without_work();
    return;
  }
  wait_for_kernels_before();
  if (!Walk::has_unit()) return;
  const int64_t kv_index =
      int64_t{blockIdx.z} * p.shape.kv_heads + blockIdx.y / (p.shape.heads / p.shape.kv_heads);
  const int first = blockIdx.x * Walk::kRows + Walk::first_row();
  ulonglong2 sums[Walk::kPasses][2];
  float factors[Walk::kPasses];
  const float value = launch.value_maximum[kv_index];
#pragma unroll
  for (int pass = 0; pass < Walk::kPasses; ++pass) {
    const int token = min(first + pass * Walk::kAtOnce, p.shape.q_tokens - 1);
    const int64_t index = head_index * p.shape.q_tokens + token;
    const ulonglong2* from =
        reinterpret_cast<const ulonglong2*>(launch.grad_query_sum + index * (head_dim / 2)) +
        Walk::unit() * 2;
    sums[pass][0] = from[0];
    sums[pass][1] = from[1];
    // Integers cannot tell that a gradient of the output was not finite; delta can.
    const bool broken = isnan(p.tau[index]) || !(fabsf(launch.delta[index]) < kInfinity);
    factors[pass] = broken ? NAN : p.scale / row_quanta(launch.row_bound[index] * value);
  }
  float columns[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    columns[i] = 1 / column_quanta(launch.column_maximum[kv_index * head_dim + Walk::unit() * 8 + i]);
#pragma unroll
  for (int pass = 0; pass < Walk::kPasses; ++pass) {
    const int token = first + pass * Walk::kAtOnce;
    if (token >= p.shape.q_tokens || (ways.pairs && !row_is_lost(p, head_index, token))) continue;
    const unsigned long long pairs[4] = {sums[pass][0].x, sums[pass][0].y, sums[pass][1].x, sums[pass][1].y};
    float x[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int2 parts = PairOfSums::parts(pairs[i]);
      x[2 * i] = static_cast<float>(parts.x) * columns[2 * i] * factors[pass];
      x[2 * i + 1] = static_cast<float>(parts.y) * columns[2 * i + 1] * factors[pass];
    }
    store_unit(
        token_pointer<T>(launch.gradients.grad_query, blockIdx.z, blockIdx.y, token) + Walk::unit() * 8, x);
  }
}

}  // namespace asplash::kernels::portable
