#pragma once

#include "portable/tiles.cuh"

/// Backward: one block of four warps takes 64 keys through the row tiles, of all query heads of its group, whose
/// mask names them: five products a tile pair.
///
///     w_ij = u_ij^(r - 1)     delta_i = dO_i . mean_i     dS_ij = w_ij (dO_i . v_j - delta_i)
///     dV_j = sum_i p_ij dO_i     dK_j = scale sum_i dS_ij q_i     dQ_i = scale sum_j dS_ij k_j
///
/// dK and dV stay in registers. dQ is summed over blocks in global memory, in any order and yet bitwise equal every
/// time: the terms are rounded to integers, multiples of a quantum of each row times one of each column, and
/// integers add without rounding. The quanta are powers of two such that no sum can leave 31 bits:
///
///     |sum_j w_ij (dO_i . v_j - delta_i) k_jc|  <=  (sum_j w_ij) 2 |dO_i| max_j |v_j|  max_j |k_jc|
///
/// (delta is a weighted mean of dO . v). The bound is some 2^10 to 2^14 above typical sums, so that 16 to 20 bits
/// remain: more than the 8 of a bf16 gradient. A separate kernel for dQ would cost two products more.
///
/// Warps own 16 keys, for dQ 16 rows; dS crosses over in shared memory.
namespace asplash::kernels::portable {

template <typename T, int head_dim>
struct Backward {
  static constexpr int kChunk = head_dim <= 128 ? head_dim : 128;  ///< columns of dK, dV and dQ of one block
  static constexpr int kChunks = head_dim / kChunk;
  using Rows = Tile<T, head_dim>;
  using Cross = Tile<T, kTile>;  ///< dS, keys as rows
  static constexpr int kKeyAt = 0;
  static constexpr int kValueAt = Rows::kBytes;
  static constexpr int kCrossAt = 2 * Rows::kBytes;
  static constexpr int kColumnsAt = kCrossAt + Cross::kBytes;
  static constexpr int kStageAt = kColumnsAt + kChunk * 4;
  static constexpr int kNumbersAt = 2 * Rows::kBytes;  ///< in a stage: tau, delta, 1 / quantum of each row
  static constexpr int kStageBytes = kNumbersAt + 3 * kTile * 4;
  static constexpr int shared_bytes(int stages) { return kStageAt + stages * kStageBytes; }
  static constexpr int kBlocks = head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
};

/// The smallest power of two that is not below x, within [2^low, 2^126]; 1 for 0.
__device__ inline float power_of_two_above(float x, int low) {
  if (!(x > 0)) return 1;
  const uint32_t bits = __float_as_uint(x);
  const int exponent = static_cast<int>(bits >> 23) + ((bits & 0x7FFFFFU) != 0 ? 1 : 0);
  return __uint_as_float(static_cast<uint32_t>(min(max(exponent, 127 + low), 253)) << 23);
}
/// Of a row whose sums over keys, divided by the column's largest |k|, are at most `bound`; 2^30 quanta reach it.
__device__ inline float row_quantum(float bound) { return power_of_two_above(bound, -60) * 0x1p-30F; }
__device__ inline float column_quantum(float largest_key) { return power_of_two_above(largest_key, -30); }

/// Index into grad_query_sum. The 8 rows x 4 columns that a warp adds to at once lie side by side.
__host__ __device__ inline int64_t sum_index(const EntmaxAttentionShape& shape, int64_t head_index, int token, int column) {
  const int64_t groups = (shape.q_tokens + 7) / 8;
  // Columns 2 l and 2 l + 1 of an 8 go to lane l of two additions.
  const int place = column / 8 * 2 + column % 2, lane = column % 8 / 2;
  return (head_index * groups + token / 8) * 8 * shape.head_dim + place * 32 + token % 8 * 4 + lane;
}

/// What a block of keys works on; in shared memory, like RowPlace.
struct KeyPlace {
  Document document;
  int batch, kv_head, key_tile, first_column;
};

template <typename T, int head_dim>
struct BackwardBlock {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;

  const Launch& launch;
  const KeyPlace& place;
  char* shared;

  __device__ uint32_t address(int offset) const { return shared_address(shared + offset); }
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }
  __device__ int64_t head_index(int head) const { return int64_t{place.batch} * launch.params.shape.heads + head; }

  __device__ void load_stage(int head, int row_tile, int stage) const {
    const AttentionTensor& query = launch.params.query;
    const AttentionTensor& grad = launch.gradients.grad_out;
    const int row0 = row_tile * kTile, rows = place.document.q_length - row0, token = place.document.q_begin + row0;
    char* at = shared + Layout::kStageAt + stage * Layout::kStageBytes;
    Rows::load(shared_address(at), token_pointer<T>(query, place.batch, head, token), query.token_stride, rows);
    Rows::load(shared_address(at) + Rows::kBytes, token_pointer<T>(grad, place.batch, head, token), grad.token_stride, rows);
    commit_copies();
    if (threadIdx.x < kTile) {
      float* numbers = reinterpret_cast<float*>(at + Layout::kNumbersAt);
      const bool valid = static_cast<int>(threadIdx.x) < rows;
      const int64_t index = head_index(head) * launch.params.shape.q_tokens + token + threadIdx.x;
      numbers[threadIdx.x] = valid ? launch.params.tau[index] : kInfinity;
      numbers[kTile + threadIdx.x] = valid ? launch.delta[index] : 0;
      numbers[2 * kTile + threadIdx.x] = valid ? 1 / launch.row_quantum[index] : 0;
    }
  }
};

/// acc += left (16 rows x 64) times columns [first, first + columns) of a tile of 64 rows.
template <typename T, int head_dim, int columns>
__device__ inline void accumulate(float (&acc)[columns / 8][4], const PackedScores& left, uint32_t tile, int first) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const Fragment a = as_left(left, k);
#pragma unroll
    for (int n = 0; n < columns / 16; ++n) {
      const Fragment b = Tile<T, head_dim>::right_of_columns(tile, k * 16, first + n * 16);
      Element<T>::multiply_add(acc[2 * n], a, b.x[0], b.x[1]);
      Element<T>::multiply_add(acc[2 * n + 1], a, b.x[2], b.x[3]);
    }
  }
}

/// The row tiles among [base, base + kThreads) of one head whose mask names the key tile, in order.
__device__ inline int list_row_tiles(const uint32_t* head_mask, int words, int row_tiles, int base, int key_tile,
                                     int* list) {
  __shared__ int counts[kWarps];
  const int tile = base + threadIdx.x, warp = threadIdx.x / 32;
  const bool active =
      tile < row_tiles && (head_mask[int64_t{tile} * words + key_tile / 32] >> (key_tile % 32) & 1U) != 0;
  const uint32_t ballot = __ballot_sync(0xFFFFFFFFU, active);
  if (threadIdx.x % 32 == 0) counts[warp] = __popc(ballot);
  __syncthreads();
  int before = __popc(ballot & ((1U << (threadIdx.x % 32)) - 1)), total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += counts[i];
    total += counts[i];
  }
  if (active) list[before] = tile;
  __syncthreads();
  return total;
}

/// dQ of this warp's 16 rows from the tile pair, added to the sums of all key tiles. crossed: warps (as bits) whose
/// 16 keys hold a weight; the others did not write their dS.
template <typename T, int head_dim>
__device__ inline void add_grad_query(const BackwardBlock<T, head_dim>& block, const float* numbers, int crossed,
                                      int64_t head_index, int token, int rows) {
  using Layout = Backward<T, head_dim>;
  constexpr int kPart = Layout::kChunk < 64 ? Layout::kChunk : Layout::kChunk % 64 == 0 ? 64 : 48;
  const int warp_row = block.warp_row();
  const float* columns = reinterpret_cast<const float*>(block.shared + Layout::kColumnsAt);
#pragma unroll
  for (int part = 0; part < Layout::kChunk; part += kPart) {
    float dq[kPart / 8][4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if ((crossed >> k & 1) == 0) continue;
      const Fragment a = Layout::Cross::left_of_columns(block.address(Layout::kCrossAt), k * 16, warp_row);
#pragma unroll
      for (int n = 0; n < kPart / 16; ++n) {
        const Fragment b = Layout::Rows::right_of_columns(block.address(Layout::kKeyAt), k * 16,
                                                          block.place.first_column + part + n * 16);
        Element<T>::multiply_add(dq[2 * n], a, b.x[0], b.x[1]);
        Element<T>::multiply_add(dq[2 * n + 1], a, b.x[2], b.x[3]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + element_row(2 * r);
      const float inverse = numbers[2 * kTile + row];
      int32_t* sum = block.launch.grad_query_sum +
                     sum_index(block.launch.params.shape, head_index, token + row,
                               block.place.first_column + part + threadIdx.x % 4 * 2);
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < kPart / 8; ++n) {
        const float2 scale = *reinterpret_cast<const float2*>(columns + part + n * 8 + threadIdx.x % 4 * 2);
        atomicAdd(sum + n * 64, __float2int_rn(dq[n][2 * r] * (inverse * scale.x)));
        atomicAdd(sum + n * 64 + 32, __float2int_rn(dq[n][2 * r + 1] * (inverse * scale.y)));
      }
    }
  }
}

/// Loads the keys and values of the block and the columns' inverse quanta.
template <typename T, int head_dim>
__device__ inline void load_keys_and_values(const BackwardBlock<T, head_dim>& block) {
  using Layout = Backward<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const int key0 = block.place.key_tile * kTile, keys = block.place.document.k_length - key0;
  const int token = block.place.document.k_begin + key0;
  Layout::Rows::load(block.address(Layout::kKeyAt), token_pointer<T>(p.key, block.place.batch, block.place.kv_head, token),
                     p.key.token_stride, keys);
  Layout::Rows::load(block.address(Layout::kValueAt), token_pointer<T>(p.value, block.place.batch, block.place.kv_head, token),
                     p.value.token_stride, keys);
  commit_copies();
  const int64_t kv_index = int64_t{block.place.batch} * p.shape.kv_heads + block.place.kv_head;
  float* columns = reinterpret_cast<float*>(block.shared + Layout::kColumnsAt);
  for (int i = threadIdx.x; i < Layout::kChunk; i += kThreads)
    columns[i] = 1 / column_quantum(block.launch.column_maximum[kv_index * p.shape.head_dim + block.place.first_column + i]);
  wait_copies<0>();
  __syncthreads();
  const KeyTileFacts facts =
      block.launch.key_facts[kv_index * p.shape.key_tiles() + block.place.document.key_tile_begin + block.place.key_tile];
  // Where they could matter, the forward has made the row NaN; elsewhere they meet weights of zero.
  if (!(facts.key_norm < kInfinity)) clear_broken<T, head_dim>(block.shared + Layout::kKeyAt);
  if (!(facts.value_norm < kInfinity)) clear_broken<T, head_dim>(block.shared + Layout::kValueAt);
}

template <typename T, int head_dim>
struct KeyGradients {
  float key[Backward<T, head_dim>::kChunk / 8][4] = {};
  float value[Backward<T, head_dim>::kChunk / 8][4] = {};
};

/// dK and dV of this warp's 16 keys from the tile pair, and its dS into shared memory. False where no pair has
/// weight: then nothing was written.
template <typename T, int head_dim>
__device__ inline bool add_grad_key_value(const BackwardBlock<T, head_dim>& block, const PairRule& rule,
                                          uint32_t stage, const float* numbers, KeyGradients<T, head_dim>& grads) {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;
  const float exponent = block.launch.exponent;
  const int warp_row = block.warp_row();
  const uint32_t query = stage, grad = stage + Rows::kBytes;
  Scores<1> s;
  multiply_rows<T, head_dim, 1>(
      s, [&](int, int k) { return Rows::left(block.address(Layout::kKeyAt), warp_row, k * 16); }, query);
  to_z<true>(s, rule, block.launch.z_scale, warp_row);
  float top = 0;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 tau = *reinterpret_cast<const float2*>(numbers + element_column(n, 0));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[0][n][e] = fmaxf(s[0][n][e] - (e % 2 == 0 ? tau.x : tau.y), 0);
      top = fmaxf(top, s[0][n][e]);
    }
  }
  if (!__any_sync(0xFFFFFFFFU, top > 0)) return false;
  Scores<1> dp;
  multiply_rows<T, head_dim, 1>(
      dp, [&](int, int k) { return Rows::left(block.address(Layout::kValueAt), warp_row, k * 16); }, grad);
  PackedScores p, ds;
  with_power(exponent, [&](auto power) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 delta = *reinterpret_cast<const float2*>(numbers + kTile + element_column(n, 0));
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float w0 = slope_weight<decltype(power)::value>(s[0][n][2 * r], exponent);
        const float w1 = slope_weight<decltype(power)::value>(s[0][n][2 * r + 1], exponent);
        p[n][r] = Element<T>::pack(w0 * s[0][n][2 * r], w1 * s[0][n][2 * r + 1]);
        ds[n][r] = Element<T>::pack(w0 * (dp[0][n][2 * r] - delta.x), w1 * (dp[0][n][2 * r + 1] - delta.y));
      }
    }
  });
  char* cross = block.shared + Layout::kCrossAt;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = warp_row + element_row(2 * r);
      *reinterpret_cast<uint32_t*>(cross + key * Layout::Cross::kStride + element_column(n, 0) * 2) = ds[n][r];
    }
  }
  accumulate<T, head_dim, Layout::kChunk>(grads.value, p, grad, block.place.first_column);
  accumulate<T, head_dim, Layout::kChunk>(grads.key, ds, query, block.place.first_column);
  return true;
}

template <typename T, int head_dim>
__device__ inline void write_grad_key_value(const BackwardBlock<T, head_dim>& block,
                                            const KeyGradients<T, head_dim>& grads) {
  using Layout = Backward<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const EntmaxAttentionGradients& g = block.launch.gradients;
  const int key0 = block.place.key_tile * kTile;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = key0 + block.warp_row() + element_row(2 * r);
    if (key >= block.place.document.k_length) continue;
    const int token = block.place.document.k_begin + key, column = block.place.first_column + threadIdx.x % 4 * 2;
    T* key_out = token_pointer<T>(g.grad_key, block.place.batch, block.place.kv_head, token) + column;
    T* value_out = token_pointer<T>(g.grad_value, block.place.batch, block.place.kv_head, token) + column;
#pragma unroll
    for (int n = 0; n < Layout::kChunk / 8; ++n) {
      *reinterpret_cast<uint32_t*>(key_out + n * 8) =
          Element<T>::pack(grads.key[n][2 * r] * p.scale, grads.key[n][2 * r + 1] * p.scale);
      *reinterpret_cast<uint32_t*>(value_out + n * 8) =
          Element<T>::pack(grads.value[n][2 * r], grads.value[n][2 * r + 1]);
    }
  }
}

/// stages: 2, or 1 where shared memory is small.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, (Backward<T, head_dim>::kBlocks))
    entmax_backward_kernel(const __grid_constant__ Launch launch, int stages) {
  using Layout = Backward<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ int list[kThreads];
  __shared__ int crossed[2];  ///< of even and odd tile pairs
  __shared__ KeyPlace place;
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    // The first key tile is often a sink that all rows give weight: of all heads, it goes first.
    const int chunked_heads = p.shape.kv_heads * Layout::kChunks;
    int tile = 0, head_and_chunk = blockIdx.x;
    if (head_and_chunk >= chunked_heads) {
      const int others = p.shape.key_tiles() - 1;
      tile = 1 + (head_and_chunk - chunked_heads) % others;
      head_and_chunk = (head_and_chunk - chunked_heads) / others;
    }
    place.document = document_with_tile(launch, launch.key_tile_begin, tile);
    place.batch = blockIdx.y;
    place.kv_head = head_and_chunk / Layout::kChunks;
    place.key_tile = tile - place.document.key_tile_begin;
    place.first_column = head_and_chunk % Layout::kChunks * Layout::kChunk;
  }
  __syncthreads();
  if (place.key_tile * kTile >= place.document.k_length) return;
  const BackwardBlock<T, head_dim> block{launch, place, shared};
  load_keys_and_values<T, head_dim>(block);

  KeyGradients<T, head_dim> grads;
  const int words = p.shape.mask_words(), group = p.shape.heads / p.shape.kv_heads;
  const int first_row_tile = p.causal ? max(place.key_tile * kTile - place.document.offset(), 0) / kTile : 0;
  int pair = 0;
  if (threadIdx.x < 2) crossed[threadIdx.x] = 0;
  for (int head = place.kv_head * group; head < (place.kv_head + 1) * group; ++head) {
    const uint32_t* head_mask =
        p.tile_mask + (block.head_index(head) * p.shape.row_tiles() + place.document.row_tile_begin) * words;
    const float slope = p.slopes ? p.slopes[head] * launch.slope_scale : 0.0F;
    for (int base = first_row_tile; base < place.document.row_tiles(); base += kThreads) {
      const int total = list_row_tiles(head_mask, words, place.document.row_tiles(), base, place.key_tile, list);
      if (total > 0) block.load_stage(head, list[0], 0);
      for (int i = 0; i < total; ++i, ++pair) {
        const int stage = stages == 2 ? i % 2 : 0;
        const int at = Layout::kStageAt + stage * Layout::kStageBytes;
        const float* numbers = reinterpret_cast<const float*>(shared + at + Layout::kNumbersAt);
        wait_copies<0>();
        // Rows that the forward found broken have no weights, but 0 * NaN is no 0.
        if (__syncthreads_or(threadIdx.x < kTile && isnan(numbers[threadIdx.x]))) {
          clear_broken<T, head_dim>(shared + at);
          __syncthreads();
        }
        if (threadIdx.x == 0) crossed[(pair + 1) % 2] = 0;
        if (stages == 2 && i + 1 < total) block.load_stage(head, list[i + 1], 1 - stage);
        const int row0 = list[i] * kTile;
        const PairRule rule{p.causal, row0 + place.document.offset(), place.key_tile * kTile, place.document.k_length, slope};
        if (add_grad_key_value<T, head_dim>(block, rule, block.address(at), numbers, grads) &&
            threadIdx.x % 32 == 0) {
          atomicOr(&crossed[pair % 2], 1 << threadIdx.x / 32);
        }
        __syncthreads();
        if (crossed[pair % 2] != 0) {
          add_grad_query<T, head_dim>(block, numbers, crossed[pair % 2], block.head_index(head),
                                      place.document.q_begin + row0, place.document.q_length - row0);
        }
        if (stages == 1) {
          __syncthreads();
          if (i + 1 < total) block.load_stage(head, list[i + 1], 0);
        }
      }
      __syncthreads();
    }
  }
  wait_copies<0>();
  write_grad_key_value<T, head_dim>(block, grads);
}

}  // namespace asplash::kernels::portable
