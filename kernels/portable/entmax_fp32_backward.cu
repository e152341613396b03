// Backward of entmax attention in fp32, in three kernels:
//   delta = dO . mean, a warp per row;
//   dQ = scale sum_j dS_ij k_j, a block for 64 rows of one query head;
//   dK = scale sum_i dS_ij q_i and dV = sum_i p_ij dO_i, a block for 64 keys of one key/value head, over the
//   query heads that use it and their rows in ascending order.
// with dS_ij = w_ij (dO_i . v_j - delta_i). Each number is summed by one thread in a fixed order: no atomics,
// the same bits every time. Both walk only tiles in the forward's mask; scores are recomputed from tau.
//
// What is not finite: rows with a broken threshold (tau NaN) get dQ = NaN and, like rows without keys, are
// read as zeros by the second kernel. A pair without weight has dS = 0 by a comparison, not by a product, and
// the key that it is multiplied with is read as zero where it is not finite.

#include "entmax_fp32.h"
#include "entmax_fp32_tiles.cuh"

namespace asplash::kernels::portable {
namespace {

using namespace fp32;  // NOLINT

constexpr int kRowBytes = static_cast<int>(sizeof(float)) * (2 * kChunkSize + kPairSize);
constexpr int kKeyBytes = static_cast<int>(sizeof(float)) * (2 * kChunkSize + 2 * kPairSize);

__global__ void __launch_bounds__(kThreads) delta_kernel(const Launch launch) {
  const EntmaxAttentionParams& p = launch.params;
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto token = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32);
  if (token >= p.shape.q_tokens) return;
  const int64_t index = row_index(p.shape, batch, head, token);
  const auto* const mean = static_cast<const float*>(p.mean_value) + index * p.shape.head_dim;
  const auto* const grad = token_pointer<const float>(launch.gradients.grad_out, batch, head, token);
  float sum = 0;
  for (int d = lane; d < p.shape.head_dim; d += 32) sum = fmaf(mean[d], grad[d], sum);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0U, sum, offset);
  if (lane == 0) launch.delta[index] = sum;
}

template <int head_dim>
__global__ void __launch_bounds__(kThreads, 1) grad_query_kernel(const Launch launch) {
  extern __shared__ float4 shared_memory[];
  auto* const row_chunk = reinterpret_cast<float*>(shared_memory);
  float* const column_chunk = row_chunk + kChunkSize;
  float* const grad_scores = column_chunk + kChunkSize;

  const EntmaxAttentionParams& p = launch.params;
  const auto tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);  // most keys first
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int kv_head = head / (p.shape.heads / p.shape.kv_heads);
  const Document d = document_with_tile(launch, launch.row_tile_begin, tile);
  const int first_row = (tile - d.row_tile_begin) * kTile;
  if (first_row >= d.q_length) return;
  const Scores scores = scores_of(launch, d, head);
  const int visible_keys = d.visible_keys(p.causal, min(first_row + kTile, d.q_length));
  const TokenTile query = token_tile(p.query, batch, head, d.q_begin, d.q_length, first_row);
  const TokenTile grad_out =
      token_tile(launch.gradients.grad_out, batch, head, d.q_begin, d.q_length, first_row);
  const uint32_t* const mask = mask_of(p, batch, head, tile);

  int visible[kOwn];
  float tau[kOwn], delta[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = first_row + own_row() + i;
    visible[i] = scores.visible_keys(row);
    const int64_t index = row_index(p.shape, batch, head, d.q_begin + row);
    tau[i] = row < d.q_length ? p.tau[index] : kInfinity;
    delta[i] = row < d.q_length ? launch.delta[index] : 0.0F;
  }
  RowSum<head_dim> grad_query;
  clear<head_dim>(grad_query);
  for (int word = 0; word * 32 * kTile < visible_keys; ++word) {
    for (uint32_t left = mask[word]; left != 0; left &= left - 1) {
      const int first_key = (word * 32 + __ffs(static_cast<int>(left)) - 1) * kTile;
      const TokenTile key = token_tile(p.key, batch, kv_head, d.k_begin, d.k_length, first_key);
      const TokenTile value = token_tile(p.value, batch, kv_head, d.k_begin, d.k_length, first_key);
      Tile z, grad;
      multiply_tiles<head_dim>(query, key, row_chunk, column_chunk, z);
      multiply_tiles<head_dim>(grad_out, value, row_chunk, column_chunk, grad);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const int key_index = first_key + own_column() + kLanes * j;
          const float u = scores(z[i][j], first_row + own_row() + i, key_index) - tau[i];
          const float w = key_index < visible[i] ? slope_weight(u, launch.exponent) : 0.0F;
          grad[i][j] = w > 0 ? w * (grad[i][j] - delta[i]) : 0.0F;
        }
      }
      store_pairs(grad_scores, grad);
#pragma unroll
      for (int c = 0; c < head_dim / kChunk; ++c) {
        __syncthreads();
        load_chunk<Take::finite>(column_chunk, key, c * kChunk);
        __syncthreads();
        add_product(grad_scores, column_chunk, grad_query[c]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = first_row + own_row() + i;
    if (row >= d.q_length) continue;
    store_row<head_dim>(token_pointer<float>(launch.gradients.grad_query, batch, head, d.q_begin + row),
                        grad_query, i, isnan(tau[i]) ? NAN : p.scale);
  }
}

/// Rows of its tiles are keys, columns are queries.
template <int head_dim>
__global__ void __launch_bounds__(kThreads, 1) grad_key_value_kernel(const Launch launch) {
  extern __shared__ float4 shared_memory[];
  auto* const row_chunk = reinterpret_cast<float*>(shared_memory);
  float* const column_chunk = row_chunk + kChunkSize;
  float* const p_tile = column_chunk + kChunkSize;
  float* const grad_scores = p_tile + kPairSize;

  const EntmaxAttentionParams& p = launch.params;
  const auto tile = static_cast<int>(blockIdx.x);  // the first keys are seen by the most rows
  const int kv_head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int group = p.shape.heads / p.shape.kv_heads;
  const Document d = document_with_tile(launch, launch.key_tile_begin, tile);
  const int first_key = (tile - d.key_tile_begin) * kTile;
  if (first_key >= d.k_length) return;
  const TokenTile key = token_tile(p.key, batch, kv_head, d.k_begin, d.k_length, first_key);
  const TokenTile value = token_tile(p.value, batch, kv_head, d.k_begin, d.k_length, first_key);
  const int mask_word = first_key / kTile / 32, mask_bit = first_key / kTile % 32;
  const int first_seeing = p.causal ? max(first_key - d.offset(), 0) / kTile : 0;  // row tile
  // Offsets that overlap could ask for more row tiles than there are.
  const int last_row_tile = min(d.row_tiles(), p.shape.row_tiles() - d.row_tile_begin);

  RowSum<head_dim> grad_key, grad_value;
  clear<head_dim>(grad_key);
  clear<head_dim>(grad_value);
#pragma unroll 1
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const Scores scores = scores_of(launch, d, head);
#pragma unroll 1
    for (int row_tile = first_seeing; row_tile < last_row_tile; ++row_tile) {
      if (!(mask_of(p, batch, head, d.row_tile_begin + row_tile)[mask_word] >> mask_bit & 1)) continue;
      const int first_row = row_tile * kTile;
      const TokenTile query = token_tile(p.query, batch, head, d.q_begin, d.q_length, first_row);
      const TokenTile grad_out =
          token_tile(launch.gradients.grad_out, batch, head, d.q_begin, d.q_length, first_row);
      const int64_t row_begin = row_index(p.shape, batch, head, d.q_begin + first_row);
      Tile z, grad;
      multiply_tiles<head_dim>(key, query, row_chunk, column_chunk, z);
      multiply_tiles<head_dim>(value, grad_out, row_chunk, column_chunk, grad);
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const int column = own_column() + kLanes * j;
        const int visible = scores.visible_keys(first_row + column);
        const float tau = visible > 0 ? p.tau[row_begin + column] : kInfinity;
        const float delta = visible > 0 ? launch.delta[row_begin + column] : 0.0F;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const int key_index = first_key + own_row() + i;
          const float u = scores(z[i][j], first_row + column, key_index) - tau;
          const float w = key_index < visible ? slope_weight(u, launch.exponent) : 0.0F;
          z[i][j] = w > 0 ? w * u : 0.0F;
          grad[i][j] = w > 0 ? w * (grad[i][j] - delta) : 0.0F;
        }
      }
      store_pairs(p_tile, z);
      store_pairs(grad_scores, grad);
#pragma unroll
      for (int c = 0; c < head_dim / kChunk; ++c) {
        __syncthreads();
        load_chunk<Take::with_threshold>(row_chunk, grad_out, c * kChunk, p.tau + row_begin);
        load_chunk<Take::with_threshold>(column_chunk, query, c * kChunk, p.tau + row_begin);
        __syncthreads();
        add_product(p_tile, row_chunk, grad_value[c]);
        add_product(grad_scores, column_chunk, grad_key[c]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int token = first_key + own_row() + i;
    if (token >= d.k_length) continue;
    const EntmaxAttentionGradients& g = launch.gradients;
    store_row<head_dim>(token_pointer<float>(g.grad_key, batch, kv_head, d.k_begin + token), grad_key, i,
                        p.scale);
    store_row<head_dim>(token_pointer<float>(g.grad_value, batch, kv_head, d.k_begin + token), grad_value, i,
                        1);
  }
}

}  // namespace

cudaError_t entmax_backward_fp32(const Launch& launch, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  if (s.heads == 0 || s.kv_heads == 0 || s.batch == 0) return cudaSuccess;
  if (s.q_tokens > 0) {
    const int rows = kThreads / 32;
    const dim3 grid(static_cast<unsigned>((s.q_tokens + rows - 1) / rows), static_cast<unsigned>(s.heads),
                    static_cast<unsigned>(s.batch));
    delta_kernel<<<grid, kThreads, 0, stream>>>(launch);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return for_head_dim(s.head_dim, [&](auto head_dim) {
    constexpr int kDim = decltype(head_dim)::value;
    cudaError_t error = cudaSuccess;
    if (s.q_tokens > 0) {
      error = launch_tiles(grad_query_kernel<kDim>, launch, s.row_tiles(), s.heads, kRowBytes, stream);
    }
    if (s.k_tokens > 0 && error == cudaSuccess) {
      error = launch_tiles(grad_key_value_kernel<kDim>, launch, s.key_tiles(), s.kv_heads, kKeyBytes, stream);
    }
    return error;
  });
}

}  // namespace asplash::kernels::portable
