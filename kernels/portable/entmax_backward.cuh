#pragma once

#include "portable/entmax_query_sums.cuh"
#include "portable/entmax_row_list.cuh"
#include "portable/entmax_support.cuh"

/// Backward of heads where whole tiles cost less than single pairs, and of row tiles without a support
/// (entmax_support.cuh): one block of four warps takes 64 keys through the rows that give one of them weight,
/// of all query heads of its group, in stages of 64: five products a stage. The rows are gathered
/// (entmax_row_list.cuh).
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
/// Story, for 16k tokens and 16 heads of 128 on an H200 (dense: 2.75 TFLOP), without and with 70 % zero
/// tiles: (1) dQ by 16 rows of a warp: 12.9 and 3.9 ms, 1600 instructions a warp and tile pair of which 320
/// are products. (2) By 32 rows and half of the columns, fragments loaded two products ahead: 10.9 and 3.5
/// ms. Shared memory's pipe was busy two thirds of the time. (3) Models turned out to give 1 % of the pairs
/// weight and to touch every tile (docs/sparsity.md): rows gathered, a third of the stages: 5.1 and 2.9 ms,
/// additions to dQ through shared memory (row by row of a fragment, or transposed by shuffles: 5.3; as 32-bit
/// integers: 5.9, their number is what counts). Without the additions it would be 4.1, without all of dQ 3.1,
/// listing, gathering and the first product alone 1.2. (4) Rows of sums padded instead of permuted, additions
/// without a condition (the compiler makes a branch of each), 1970 instead of 2290 instructions: 4.9 and 2.9:
/// instructions wait for each other, two warps a scheduler. cp.reduce.async.bulk (sm_90) in place of the
/// additions: 5.2. (5) Blocks of all heads from long to short: 4.6 and 2.7.
namespace asplash::kernels::portable {

/// dS of a stage in shared memory: 64 keys x 64 rows of 16-bit numbers, without padding: two blocks just
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
  static constexpr int kStageAt = kColumnsAt + kChunk * 2;
  static constexpr int kNumbersAt = 2 * Rows::kBytes;  ///< in a stage: tau, delta, row_bound of each row
  static constexpr int kStageBytes = kNumbersAt + 3 * kTile * 4;
  static constexpr int shared_bytes(int stages) { return kStageAt + stages * kStageBytes; }
  static constexpr int kBlocks = head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
};

/// What a block of keys works on; in shared memory, like RowPlace.
struct KeyPlace : KeyTilePlace {
  int member;  ///< of the group of query heads
  int span;    ///< row tiles [span, span_end) are worked on
  int span_end;
  // Of that query head:
  const void* query;  ///< the span's first row
  const void* grad;   ///< of out, likewise
  int64_t row_index;  ///< of the span's first row in [batch, heads, q_tokens]
  int64_t head_index;
  const uint32_t* row_bits;  ///< of the document's first row tile
  float slope;               ///< (alpha - 1) slope of the head
  float value_maximum;
  const uint32_t* support;  ///< of the document's rows, nullptr: entmax_pair_rows.cuh takes none
  bool broken;              ///< some row of the head is
};

template <typename T, int head_dim>
struct BackwardBlock {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;

  const Launch& launch;
  KeyPlace& place;
  RowNumber* ring;
  char* shared;

  __device__ uint32_t address(int offset) const {
    uint32_t at = shared_address(shared + offset);
    asm volatile("" : "+r"(at));  // not kept in a register over the stage
    return at;
  }
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }

  __device__ PairRule rule(int row_tile) const {
    return {launch.params.causal, row_tile * kTile + place.document.offset(), place.key_tile * kTile,
            place.document.k_length, place.slope};
  }
  __device__ void choose_head(int head) const {
    const EntmaxAttentionParams& p = launch.params;
    place.head_index = int64_t{place.batch} * p.shape.heads + head;
    place.row_bits =
        p.tile_mask +
        (place.head_index * p.shape.row_tiles() + place.document.row_tile_begin) * p.shape.mask_words() +
        p.shape.row_bits_at();
    place.broken = launch.broken_rows[place.head_index] != 0;
    place.slope = p.slopes ? p.slopes[head] * launch.slope_scale : 0.0F;
    const BackwardWays ways = BackwardWays::of_head(p, place.head_index);
    place.support = ways.pairs ? support_tile(p, place.head_index, place.document.q_begin).rows : nullptr;
    place.span_end = ways.tiles ? place.first_row_tile(p.causal) : place.document.row_tiles();  // none
  }
  /// On to the next span of row tiles, of this query head of the group or the next. False after the last. The
  /// block meets.
  __device__ bool next_span() const {
    const int group = launch.params.shape.heads / launch.params.shape.kv_heads;
    if (threadIdx.x == 0) {
      const int tiles = place.document.row_tiles();
      while (place.span_end >= tiles && ++place.member < group)
        choose_head(place.kv_head * group + place.member);
      place.span = place.span_end;
      place.span_end = min(place.span + kSpanTiles, tiles);
      const int head = place.kv_head * group + min(place.member, group - 1);
      const int token = place.document.q_begin + place.span * kTile;
      place.query = token_pointer<const T>(launch.params.query, place.batch, head, token);
      place.grad = token_pointer<const T>(launch.gradients.grad_out, place.batch, head, token);
      place.row_index = place.head_index * launch.params.shape.q_tokens + token;
    }
    __syncthreads();
    return place.member < group;
  }
  __device__ uint2 row_bits(int row_tile) const {
    const EntmaxAttentionShape& shape = launch.params.shape;
    if (row_tile >= place.span_end) return {0, 0};
    if (place.support != nullptr && place.support[row_tile * kTile] != kNoSupport) return {0, 0};
    uint2 bits = load_row_bits(place.row_bits + int64_t{row_tile} * shape.mask_words(), place.key_tile,
                               shape.row_bytes());
    const int rows = place.document.q_length - row_tile * kTile;
    if (rows < kTile && shape.row_bytes() < 8) {  // a bit may stand for rows that do not exist, too
      const uint2 existing = bits_of_rows(rows);
      bits = {bits.x & existing.x, bits.y & existing.y};
    }
    return bits;
  }
  __device__ RowList begin_list() const {
    const int lane = threadIdx.x % 32;
    return {row_bits(place.span + lane), place.span, place.span, 0};
  }
  __device__ void list_rows(RowList& list, int stage) const {
    list_more_rows(list, ring, stage, place.span, place.span_end,
                   [&](int row_tile) { return row_bits(row_tile); });
  }
  __device__ int position_of_span() const { return place.span * kTile + place.document.offset(); }
  __device__ const RowNumber* rows(int stage) const { return ring + stage * kTile % kRing; }
  /// Copies queries, gradients and numbers of a stage's rows; what lies beyond them gets no weights.
  __device__ void load_stage(int stage, int count, int buffer) const {
    const RowNumber* numbers_of_rows = rows(stage);
    const uint32_t at = address(Layout::kStageAt) + buffer * Layout::kStageBytes;
    Rows::gather([&](int slot) { return static_cast<int>(numbers_of_rows[min(slot, count - 1)]); }, at,
                 static_cast<const T*>(place.query), static_cast<int>(launch.params.query.token_stride),
                 at + Rows::kBytes, static_cast<const T*>(place.grad),
                 static_cast<int>(launch.gradients.grad_out.token_stride));
    if (threadIdx.x < kTile) {
      const int slot = threadIdx.x;
      const uint32_t numbers = at + Layout::kNumbersAt + slot * 4;
      const int64_t index = place.row_index + numbers_of_rows[min(slot, count - 1)];
      if (slot < count)
        copy_async_word(numbers, launch.params.tau + index);
      else
        store_word(numbers, __float_as_uint(kInfinity));
      copy_async_word(numbers + kTile * 4, launch.delta + index);
      copy_async_word(numbers + kTile * 8, launch.row_bound + index);
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

/// A warp's part of a stage's dQ: 32 rows and half of the columns, so that each fragment serves twice.
template <int chunk>
struct QueryPart {
  static constexpr int kColumns = chunk / 2;
  float sum[2][kColumns / 8][4] = {};
};

/// Adds dQ of a stage's rows to the sums of all key tiles: through shared memory, where the stage's queries
/// and gradients were, so that they leave by whole lines of one row.
template <typename T, int head_dim>
__device__ inline void add_to_sums(const BackwardBlock<T, head_dim>& block, int stage_at, int stage,
                                   int count, const QueryPart<Backward<T, head_dim>::kChunk>& part) {
  using Layout = Backward<T, head_dim>;
  using Sums = SumTile<Layout::kChunk>;
  constexpr int kColumns = Layout::kChunk / 2, kGroups = kColumns / 8;
  static_assert(Sums::kBytes <= 2 * Layout::Rows::kBytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = warp / 2 * 32, first_column = warp % 2 * kColumns;
  const float* numbers =
      reinterpret_cast<const float*>(block.shared + stage_at + Layout::kNumbersAt) + 2 * kTile + first_row;
  char* sums = block.shared + stage_at + first_row * Sums::kStride + first_column * 4;
  uint32_t scales[kGroups];
#pragma unroll
  for (int n = 0; n < kGroups; ++n)
    scales[n] = reinterpret_cast<const uint32_t*>(block.shared +
                                                  Layout::kColumnsAt)[first_column / 2 + n * 4 + lane % 4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = r * 8 + lane / 4;
    const float quanta = row_quanta(numbers[row] * block.place.value_maximum);
    char* to = sums + row * Sums::kStride + lane % 4 * 8;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const float2 scale = unpack_powers(scales[n]);
      const float x = part.sum[r / 2][n][r % 2 * 2], y = part.sum[r / 2][n][r % 2 * 2 + 1];
      *reinterpret_cast<unsigned long long*>(to + n * 32) =
          PairOfSums::of(__float2int_rn(x * scale.x * quanta), __float2int_rn(y * scale.y * quanta));
    }
  }
  __syncwarp();
  unsigned long long* out = block.launch.grad_query_sum +
                            (block.place.row_index * head_dim + block.place.first_column + first_column) / 2;
  add_rows<kColumns, Sums::kStride, head_dim * 4>(out, block.rows(stage) + first_row, sums,
                                                  count - first_row);
}

/// dQ of the stage's rows, from dS in shared memory. crossed: warps (as bits) whose 16 keys hold a weight;
/// the others did not write their dS.
template <typename T, int head_dim>
__device__ inline void add_grad_query(const BackwardBlock<T, head_dim>& block, int stage_at, int crossed,
                                      int stage, int count) {
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
  add_to_sums(block, stage_at, stage, count, part);
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
  uint32_t* columns = reinterpret_cast<uint32_t*>(block.shared + Layout::kColumnsAt);
  const float* maxima = block.launch.column_maximum + kv_index * p.shape.head_dim + block.place.first_column;
  for (int i = threadIdx.x; i < Layout::kChunk / 2; i += kThreads)
    columns[i] = pack_powers(column_quanta(maxima[2 * i]), column_quanta(maxima[2 * i + 1]));
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

/// Products of keys (rows of s, from first_key_row of the tile on) with gathered rows -> z; -infinity where
/// the pair does not exist.
__device__ inline void to_z_of_rows(Scores<1>& s, const PairRule& rule, float z_scale, int first_key_row,
                                    const RowNumber* rows, int first_position) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(rows + element_column(n, 0));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = rule.first_key + first_key_row + element_row(e);
      // How far the query stands behind the key, in fp32: exact below 2^24 tokens.
      const int behind = static_cast<int>(e % 2 == 0 ? pair & 0xFFFF : pair >> 16) + first_position - key;
      const bool exists = key < rule.keys && (!rule.causal || behind >= 0);
      s[0][n][e] =
          exists ? fmaf(s[0][n][e], z_scale, -rule.slope * fabsf(static_cast<float>(behind))) : -kInfinity;
    }
  }
}

/// dK and dV of this warp's 16 keys from a stage of rows, and its dS into shared memory. False where no pair
/// has weight: then nothing was written.
template <typename T, int head_dim>
__device__ inline bool add_grad_key_value(const BackwardBlock<T, head_dim>& block, const RowNumber* rows,
                                          int stage_at, KeyGradients<T, head_dim>& grads) {
  using Layout = Backward<T, head_dim>;
  using Rows = typename Layout::Rows;
  const float exponent = block.launch.exponent;
  const int warp_row = block.warp_row();
  const uint32_t query = block.address(stage_at), grad = query + Rows::kBytes;
  const float* numbers = reinterpret_cast<const float*>(block.shared + stage_at + Layout::kNumbersAt);
  Scores<1> s;
  multiply_rows<T, head_dim>(
      s, [&](int, int k) { return Rows::left(block.address(Layout::kKeyAt), warp_row, k * 16); }, query);
  const float z_scale = block.launch.z_scale;
  // Rows come tile by tile: none lies before the first one's tile.
  const PairRule rule = block.rule(block.place.span + rows[0] / kTile);
  const bool plain = rule.slope == 0 && rule.all_visible(0, kTile);
  if (!plain) to_z_of_rows(s, rule, z_scale, warp_row, rows, block.position_of_span());
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

/// Writes the gradients; a part of them in fp32, if entmax_pair_keys.cuh has something to add.
template <typename T, int head_dim>
__device__ inline void write_grad_key_value(const BackwardBlock<T, head_dim>& block,
                                            const KeyGradients<T, head_dim>& grads) {
  using Layout = Backward<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const EntmaxAttentionGradients& g = block.launch.gradients;
  const KeyPlace& place = block.place;
  const int key0 = place.key_tile * kTile;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = key0 + block.warp_row() + element_row(2 * r);
    if (key >= place.document.k_length) continue;
    const int token = place.document.k_begin + key, column = place.first_column + threadIdx.x % 4 * 2;
    if (place.ways.pairs) {
      const int64_t at = key_part_at(p.shape, place.kv_index, token) + column;
#pragma unroll
      for (int n = 0; n < Layout::kChunk / 8; ++n) {
        *reinterpret_cast<float2*>(block.launch.grad_key_part + at + n * 8) = {
            grads.key[n][2 * r] * p.scale, grads.key[n][2 * r + 1] * p.scale};
        *reinterpret_cast<float2*>(block.launch.grad_value_part + at + n * 8) = {grads.value[n][2 * r],
                                                                                 grads.value[n][2 * r + 1]};
      }
      continue;
    }
    T* key_out = token_pointer<T>(g.grad_key, place.batch, place.kv_head, token) + column;
    T* value_out = token_pointer<T>(g.grad_value, place.batch, place.kv_head, token) + column;
#pragma unroll
    for (int n = 0; n < Layout::kChunk / 8; ++n) {
      *reinterpret_cast<uint32_t*>(key_out + n * 8) =
          Element<T>::pack(grads.key[n][2 * r] * p.scale, grads.key[n][2 * r + 1] * p.scale);
      *reinterpret_cast<uint32_t*>(value_out + n * 8) =
          Element<T>::pack(grads.value[n][2 * r], grads.value[n][2 * r + 1]);
    }
  }
}

/// buffers: 2, or 1 where shared memory is small.
template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, (Backward<T, head_dim>::kBlocks))
    entmax_backward_kernel(const __grid_constant__ Launch launch, BlockOrder order, int buffers) {
  using Layout = Backward<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) RowNumber ring[kRing];
  __shared__ int crossed[2];  ///< of even and odd stages
  __shared__ __align__(16) char place_memory[sizeof(KeyPlace)];
  KeyPlace& place = *reinterpret_cast<KeyPlace*>(place_memory);
  if (threadIdx.x == 0) {
    place.take(launch, order, Layout::kChunks, Layout::kChunk);
    place.member = -1;
    place.span_end = place.document.row_tiles();
  }
  __syncthreads();
  if (place.key_tile * kTile >= place.document.k_length || !place.ways.tiles) {
    leave_without_work();
    return;
  }
  wait_for_kernels_before();
  if (threadIdx.x == 0) place.value_maximum = launch.value_maximum[place.kv_index];
  __syncthreads();
  const BackwardBlock<T, head_dim> block{launch, place, ring, shared};
  load_keys_and_values<T, head_dim>(block);

  KeyGradients<T, head_dim> grads;
  if (threadIdx.x < 2) crossed[threadIdx.x] = 0;
  while (block.next_span()) {
    RowList list = block.begin_list();
    block.list_rows(list, 1);
    __syncthreads();
    if (list.listed > 0) block.load_stage(0, list.count(0), 0);
    int stage = 0;
#pragma unroll 1
    for (; list.count(stage) > 0; ++stage) {
      const auto begin = [&] {
        return Layout::kStageAt + (buffers == 2 ? stage % 2 : 0) * Layout::kStageBytes;
      };
      wait_copies<0>();
      __syncthreads();
      if (place.broken) {
        // Broken rows have no weights, but 0 * NaN is no 0.
        clear_broken<T, head_dim>(shared + begin());
        __syncthreads();
      }
      if (threadIdx.x == 0) crossed[(stage + 1) % 2] = 0;
      if (buffers == 2 && list.count(stage + 1) > 0)
        block.load_stage(stage + 1, list.count(stage + 1), (stage + 1) % 2);
      block.list_rows(list, stage + 2);
      if (add_grad_key_value<T, head_dim>(block, block.rows(stage), begin(), grads) &&
          threadIdx.x % 32 == 0) {
        atomicOr(&crossed[stage % 2], 1 << threadIdx.x / 32);
      }
      __syncthreads();
      asm volatile("" : "+r"(stage));  // addresses are not kept in registers meanwhile
      if (crossed[stage % 2] != 0)
        add_grad_query<T, head_dim>(block, begin(), crossed[stage % 2], stage, list.count(stage));
      if (buffers == 1) {
        __syncthreads();
        if (list.count(stage + 1) > 0) block.load_stage(stage + 1, list.count(stage + 1), 0);
      }
    }
    __syncthreads();
    if (threadIdx.x < 2) crossed[threadIdx.x] = 0;
  }
  wait_copies<0>();
  write_grad_key_value<T, head_dim>(block, grads);
}

}  // namespace asplash::kernels::portable
