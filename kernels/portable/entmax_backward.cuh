#pragma once

#include "portable/tiles.cuh"

/// Backward: one block of four warps takes 64 keys through the row tiles, of all query heads of its group,
/// whose mask names them: five products a tile pair.
///
///     w_ij = u_ij^(r - 1)     delta_i = dO_i . mean_i     dS_ij = w_ij (dO_i . v_j - delta_i)
///     dV_j = sum_i p_ij dO_i     dK_j = scale sum_i dS_ij q_i     dQ_i = scale sum_j dS_ij k_j
///
/// dK and dV stay in registers. dQ is summed over blocks in global memory, in any order and yet bitwise equal
/// every time: the terms are rounded to integers, multiples of a quantum of each row times one of each
/// column, and integers add without rounding. The quanta are powers of two such that no sum can leave 31
/// bits:
///
///     |sum_j w_ij (dO_i . v_j - delta_i) k_jc|  <=  (sum_j w_ij) 2 |dO_i| max_j |v_j|  max_j |k_jc|
///
/// (delta is a weighted mean of dO . v). The bound is some 2^10 to 2^14 above typical sums, so that 16 to 20
/// bits remain: more than the 8 of a bf16 gradient. A separate kernel for dQ would cost two products more.
///
/// Warps own 16 keys, for dQ 32 rows and half of the columns; dS crosses over in shared memory.
///
/// Story, for 16k tokens and 16 heads of 128 on an H200 (dense: 2.75 TFLOP), dense and with 70 % zero tiles:
/// (1) warps take 16 rows for dQ, each of its numbers checked to exist: 12.9 and 3.9 ms, 1600 instructions a
/// warp and tile pair of which 320 are products. (2) dQ by 32 rows and half of the columns, unchecked where
/// all rows exist, tau and delta by cp.async: 11.2 and 3.6 ms. (3) Fragments loaded two products ahead, dP by
/// halves: 10.9 and 3.5 ms. What is left is shared memory: its pipe is busy two thirds of the time, 336 KiB a
/// tile pair; quadrants of 32 keys x 32 rows would read a fifth less, but P must then cross over, too, and
/// two blocks no longer fit at 128 columns.
namespace asplash::kernels::portable {

/// dS of a tile pair in shared memory: 64 keys x 64 rows of 16-bit numbers, without padding: two blocks just
/// fit on a multiprocessor. The 16-byte units of a key are permuted by the key, so that neither the writes
/// nor the reads of eight keys meet in a bank.
struct CrossTile {
  static constexpr int kBytes = kTile * kTile * 2;
  static __device__ int offset(int key, int row) {
    return key * kTile * 2 + ((row / 8) ^ (key % 8)) * 16 + row % 8 * 2;
  }
  /// Rows [row, row + 16) as rows of the left operand, keys [key, key + 16) as the inner index.
  static __device__ Fragment left(uint32_t tile, int key, int row) {
    const int lane = threadIdx.x % 32;
    return load_matrix_transposed(tile + offset(key + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8));
  }
};

template <typename T, int head_dim>
struct Backward {
  static constexpr int kChunk = head_dim <= 128 ? head_dim : 128;  ///< columns of dK, dV and dQ of one block
  static constexpr int kChunks = head_dim / kChunk;
  using Rows = Tile<T, head_dim>;
  static constexpr int kKeyAt = 0;
  static constexpr int kValueAt = Rows::kBytes;
  static constexpr int kCrossAt = 2 * Rows::kBytes;
  static constexpr int kColumnsAt = kCrossAt + CrossTile::kBytes;
  static constexpr int kStageAt = kColumnsAt + kChunk * 4;
  static constexpr int kNumbersAt = 2 * Rows::kBytes;  ///< in a stage: tau, delta, 1 / quantum of each row
  static constexpr int kStageBytes = kNumbersAt + 3 * kTile * 4;
  static constexpr int shared_bytes(int stages) { return kStageAt + stages * kStageBytes; }
  static constexpr int kBlocks = head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
};

/// 1 / the smallest power of two that is not below x, which counts as at least 2^low; 1 for 0.
__device__ inline float inverse_power_above(float x, int low) {
  if (!(x > 0)) return 1;
  const uint32_t bits = __float_as_uint(x);
  const int exponent = static_cast<int>(bits >> 23) + ((bits & 0x7FFFFFU) != 0 ? 1 : 0);
  return __uint_as_float(static_cast<uint32_t>(254 - min(max(exponent, 127 + low), 252)) << 23);
}
/// Quanta in 1, of a row whose sums over keys, divided by the column's largest |k|, are at most `bound`: 2^30
/// reach it.
__device__ inline float row_quanta(float bound) { return inverse_power_above(bound, -60) * 0x1p30F; }
__device__ inline float column_quanta(float largest_key) { return inverse_power_above(largest_key, -30); }

/// Index into grad_query_sum. The 8 rows x 4 columns that a warp adds to at once lie side by side.
__host__ __device__ inline int64_t sum_index(const EntmaxAttentionShape& shape, int64_t head_index, int token,
                                             int column) {
  const int64_t groups = (shape.q_tokens + 7) / 8;
  // Columns 2 l and 2 l + 1 of an 8 go to lane l of two additions.
  const int place = column / 8 * 2 + column % 2, lane = column % 8 / 2;
  return (head_index * groups + token / 8) * 8 * shape.head_dim + place * 32 + token % 8 * 4 + lane;
}

/// What a block of keys works on; in shared memory, like RowPlace.
struct KeyPlace {
  Document document;
  int batch, kv_head, key_tile, first_column;
  int member;  ///< of the group of query heads
  int base;    ///< row tiles [base, base + kThreads) are at hand
  // Of that query head:
  const void* query;  ///< the document's first row
  const void* grad;   ///< of out, likewise
  int64_t row_index;  ///< of the document's first row in [batch, heads, q_tokens]
  int64_t head_index;
  const uint32_t* mask;  ///< the word of the key tile in that of the document's first row tile
  float slope;           ///< (alpha - 1) slope of the head
  bool broken;           ///< some row of the head is
};

template <typename T, int head_dim>
struct BackwardBlock {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;

  const Launch& launch;
  KeyPlace& place;
  char* shared;

  __device__ uint32_t address(int offset) const {
    uint32_t at = shared_address(shared + offset);
    asm volatile("" : "+r"(at));  // not kept in a register over the tile pair
    return at;
  }
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }

  /// The first row tile that sees the keys.
  __device__ int first_row_tile() const {
    return launch.params.causal ? max(place.key_tile * kTile - place.document.offset(), 0) / kTile : 0;
  }
  __device__ PairRule rule(int row_tile) const {
    return {launch.params.causal, row_tile * kTile + place.document.offset(), place.key_tile * kTile,
            place.document.k_length, place.slope};
  }
  __device__ void choose_head(int head) const {
    const EntmaxAttentionParams& p = launch.params;
    place.head_index = int64_t{place.batch} * p.shape.heads + head;
    place.mask =
        p.tile_mask +
        (place.head_index * p.shape.row_tiles() + place.document.row_tile_begin) * p.shape.mask_words() +
        place.key_tile / 32;
    place.broken = launch.broken_rows[place.head_index] != 0;
    place.slope = p.slopes ? p.slopes[head] * launch.slope_scale : 0.0F;
    place.query = token_pointer<const T>(launch.params.query, place.batch, head, place.document.q_begin);
    place.grad = token_pointer<const T>(launch.gradients.grad_out, place.batch, head, place.document.q_begin);
    place.row_index = place.head_index * launch.params.shape.q_tokens + place.document.q_begin;
  }
  /// On to the next row tiles, of this query head or the next. False after the last. The block meets at the
  /// end.
  __device__ bool advance() const {
    const int group = launch.params.shape.heads / launch.params.shape.kv_heads;
    if (threadIdx.x == 0) {
      place.base += kThreads;
      while (place.base >= place.document.row_tiles() && ++place.member < group) {
        choose_head(place.kv_head * group + place.member);
        place.base = first_row_tile();
      }
    }
    __syncthreads();
    return place.member < group;
  }
  __device__ void load_stage(int row_tile, int stage) const {
    const int64_t query_stride = launch.params.query.token_stride,
                  grad_stride = launch.gradients.grad_out.token_stride;
    const int row0 = row_tile * kTile, rows = place.document.q_length - row0;
    const uint32_t at = address(Layout::kStageAt) + stage * Layout::kStageBytes;
    Rows::load(at, static_cast<const T*>(place.query) + row0 * query_stride, query_stride, rows);
    Rows::load(at + Rows::kBytes, static_cast<const T*>(place.grad) + row0 * grad_stride, grad_stride, rows);
    if (threadIdx.x < kTile) {
      const uint32_t numbers = at + Layout::kNumbersAt + threadIdx.x * 4;
      const bool valid = static_cast<int>(threadIdx.x) < rows;
      const int64_t index = place.row_index + row0 + (valid ? threadIdx.x : 0);
      copy_async_word(numbers, launch.params.tau + index, valid);
      copy_async_word(numbers + kTile * 4, launch.delta + index, valid);
      copy_async_word(numbers + kTile * 8, launch.row_quanta + index, valid);
    }
    commit_copies();
  }
};

/// acc += left (16 rows x 64) times columns [first, first + columns) of a tile of 64 rows.
template <typename T, int head_dim, int columns>
__device__ inline void accumulate(float (&acc)[columns / 8][4], const PackedScores& left, uint32_t tile,
                                  int first) {
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

/// A warp's part of a tile's dQ: 32 rows and half of the columns, so that each fragment serves twice.
template <int chunk>
struct QueryPart {
  static constexpr int kColumns = chunk / 2;
  float sum[2][kColumns / 8][4] = {};
};

/// Adds dQ to the sums of all key tiles. whole: all 64 rows exist.
template <bool whole, typename T, int head_dim>
__device__ inline void add_to_sums(const BackwardBlock<T, head_dim>& block, const float* numbers, int row0,
                                   const QueryPart<Backward<T, head_dim>::kChunk>& part) {
  using Layout = Backward<T, head_dim>;
  constexpr int kColumns = Layout::kChunk / 2;
  const int row = threadIdx.x / 64 * 32 + threadIdx.x % 32 / 4;
  const int column = threadIdx.x / 32 % 2 * kColumns + threadIdx.x % 4 * 2;
  const float* columns = reinterpret_cast<const float*>(block.shared + Layout::kColumnsAt) + column;
  const Document& document = block.place.document;
  int32_t* sums = block.launch.grad_query_sum + sum_index(block.launch.params.shape, block.place.head_index,
                                                          document.q_begin + row0 + row,
                                                          block.place.first_column + column);
  const int rows = document.q_length - row0 - row;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if (!whole && r * 8 >= rows) return;
    const float quanta = numbers[2 * kTile + row + r * 8];
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const float2 scale = *reinterpret_cast<const float2*>(columns + n * 8);
      const float x = part.sum[r / 2][n][r % 2 * 2], y = part.sum[r / 2][n][r % 2 * 2 + 1];
      int32_t* sum = sums + r * 8 * head_dim + n * 64;  // 8 rows on is one group on
      atomicAdd(sum, __float2int_rn(x * scale.x * quanta));
      atomicAdd(sum + 32, __float2int_rn(y * scale.y * quanta));
    }
  }
}

/// dQ of the tile pair, from dS in shared memory. crossed: warps (as bits) whose 16 keys hold a weight; the
/// others did not write their dS.
template <typename T, int head_dim>
__device__ inline void add_grad_query(const BackwardBlock<T, head_dim>& block, const float* numbers,
                                      int crossed, int row0) {
  using Layout = Backward<T, head_dim>;
  constexpr int kColumns = Layout::kChunk / 2;
  const int row = threadIdx.x / 64 * 32, column = block.place.first_column + threadIdx.x / 32 % 2 * kColumns;
  QueryPart<Layout::kChunk> part;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if ((crossed >> k & 1) == 0) continue;
    const uint32_t cross = block.address(Layout::kCrossAt);
    const Fragment a[2] = {CrossTile::left(cross, k * 16, row), CrossTile::left(cross, k * 16, row + 16)};
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      const Fragment b =
          Layout::Rows::right_of_columns(block.address(Layout::kKeyAt), k * 16, column + n * 16);
#pragma unroll
      for (int band = 0; band < 2; ++band) {
        Element<T>::multiply_add(part.sum[band][2 * n], a[band], b.x[0], b.x[1]);
        Element<T>::multiply_add(part.sum[band][2 * n + 1], a[band], b.x[2], b.x[3]);
      }
    }
  }
  if (row0 + kTile <= block.place.document.q_length)
    add_to_sums<true>(block, numbers, row0, part);
  else
    add_to_sums<false>(block, numbers, row0, part);
}

/// Loads the keys and values of the block and the columns' inverse quanta.
template <typename T, int head_dim>
__device__ inline void load_keys_and_values(const BackwardBlock<T, head_dim>& block) {
  using Layout = Backward<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const int key0 = block.place.key_tile * kTile, keys = block.place.document.k_length - key0;
  const int token = block.place.document.k_begin + key0;
  Layout::Rows::load(block.address(Layout::kKeyAt),
                     token_pointer<T>(p.key, block.place.batch, block.place.kv_head, token),
                     p.key.token_stride, keys);
  Layout::Rows::load(block.address(Layout::kValueAt),
                     token_pointer<T>(p.value, block.place.batch, block.place.kv_head, token),
                     p.value.token_stride, keys);
  commit_copies();
  const int64_t kv_index = int64_t{block.place.batch} * p.shape.kv_heads + block.place.kv_head;
  float* columns = reinterpret_cast<float*>(block.shared + Layout::kColumnsAt);
  for (int i = threadIdx.x; i < Layout::kChunk; i += kThreads)
    columns[i] = column_quanta(
        block.launch.column_maximum[kv_index * p.shape.head_dim + block.place.first_column + i]);
  wait_copies<0>();
  __syncthreads();
  const KeyTileFacts facts =
      block.launch.key_facts[kv_index * p.shape.key_tiles() + block.place.document.key_tile_begin +
                             block.place.key_tile];
  // Where they could matter, the forward has made the row NaN; elsewhere they meet weights of zero.
  if (!(facts.key_norm < kInfinity)) clear_broken<T, head_dim>(block.shared + Layout::kKeyAt);
  if (!(facts.value_norm < kInfinity)) clear_broken<T, head_dim>(block.shared + Layout::kValueAt);
}

template <typename T, int head_dim>
struct KeyGradients {
  float key[Backward<T, head_dim>::kChunk / 8][4] = {};
  float value[Backward<T, head_dim>::kChunk / 8][4] = {};
};

/// dK and dV of this warp's 16 keys from the tile pair, and its dS into shared memory. False where no pair
/// has weight: then nothing was written.
template <typename T, int head_dim>
__device__ inline bool add_grad_key_value(const BackwardBlock<T, head_dim>& block, const PairRule& rule,
                                          uint32_t stage, const float* numbers,
                                          KeyGradients<T, head_dim>& grads) {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;
  const float exponent = block.launch.exponent;
  const int warp_row = block.warp_row();
  const uint32_t query = stage, grad = stage + Rows::kBytes;
  Scores<1> s;
  multiply_rows<T, head_dim>(
      s, [&](int, int k) { return Rows::left(block.address(Layout::kKeyAt), warp_row, k * 16); }, query);
  const float z_scale = block.launch.z_scale;
  const bool plain = rule.slope == 0 && rule.all_visible(0, kTile);
  if (!plain) to_z<true, true>(s, rule, z_scale, warp_row);
  const float factor = plain ? z_scale : 1;
  uint32_t bits = 0;  // of any u: 0 if all are
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 tau = *reinterpret_cast<const float2*>(numbers + element_column(n, 0));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[0][n][e] = fmaxf(fmaf(s[0][n][e], factor, e % 2 == 0 ? -tau.x : -tau.y), 0);
      bits |= __float_as_uint(s[0][n][e]);
    }
  }
  if (!__any_sync(0xFFFFFFFFU, bits != 0)) return false;
  Scores<1> dp;
  multiply_rows<T, head_dim>(
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
      *reinterpret_cast<uint32_t*>(cross + CrossTile::offset(key, element_column(n, 0))) = ds[n][r];
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
    const int token = block.place.document.k_begin + key,
              column = block.place.first_column + threadIdx.x % 4 * 2;
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
  __shared__ int list[kThreads], listed;
  __shared__ int crossed[2];  ///< of even and odd tile pairs
  __shared__ __align__(16) char place_memory[sizeof(KeyPlace)];
  KeyPlace& place = *reinterpret_cast<KeyPlace*>(place_memory);
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
    place.member = -1;
    place.base = place.document.row_tiles();
  }
  __syncthreads();
  if (place.key_tile * kTile >= place.document.k_length) return;
  const BackwardBlock<T, head_dim> block{launch, place, shared};
  load_keys_and_values<T, head_dim>(block);

  KeyGradients<T, head_dim> grads;
  if (threadIdx.x < 2) crossed[threadIdx.x] = 0;
  int parity = 0;  // of the tile pair
  while (block.advance()) {
    make_list(place.base, place.document.row_tiles(), list, listed, [&](int row_tile) {
      return (place.mask[int64_t{row_tile} * p.shape.mask_words()] >> (place.key_tile % 32) & 1U) != 0;
    });
    if (listed > 0) block.load_stage(list[0], 0);
    for (int i = 0; i < listed; ++i, parity ^= 1) {
      const int at = Layout::kStageAt + (stages == 2 ? i % 2 : 0) * Layout::kStageBytes;
      wait_copies<0>();
      __syncthreads();
      if (place.broken) {
        // Broken rows have no weights, but 0 * NaN is no 0.
        clear_broken<T, head_dim>(shared + at);
        __syncthreads();
      }
      if (threadIdx.x == 0) crossed[parity ^ 1] = 0;
      if (stages == 2 && i + 1 < listed) block.load_stage(list[i + 1], 1 - i % 2);
      const float* numbers = reinterpret_cast<const float*>(shared + at + Layout::kNumbersAt);
      if (add_grad_key_value<T, head_dim>(block, block.rule(list[i]), block.address(at), numbers, grads) &&
          threadIdx.x % 32 == 0) {
        atomicOr(&crossed[parity], 1 << threadIdx.x / 32);
      }
      __syncthreads();
      if (crossed[parity] != 0) add_grad_query<T, head_dim>(block, numbers, crossed[parity], list[i] * kTile);
      if (stages == 1) {
        __syncthreads();
        if (i + 1 < listed) block.load_stage(list[i + 1], 0);
      }
    }
    __syncthreads();
  }
  wait_copies<0>();
  write_grad_key_value<T, head_dim>(block, grads);
}

}  // namespace asplash::kernels::portable
