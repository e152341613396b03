#pragma once

#include "portable/entmax_finds.cuh"
#include "portable/entmax_list_threshold.cuh"
#include "portable/entmax_output.cuh"
#include "portable/entmax_row_source.cuh"

/// Sparse output: out, mean and threshold of the rows whose support the scan has listed, without another
/// product of queries and keys.
///
/// A warp takes a row at a time: its finds into shared memory, the threshold solved on them to fp32's
/// accuracy (the list holds every score above a lower bound of it), then the values of the keys that have
/// weight, from wherever they lie, times p and w in fp32. A block takes a row tile, whose row bits it
/// collects for the backward.
///
/// Why: a row of 16384 keys gives some 57 of them weight, a row tile touches every tile of keys. 57 rows of
/// values are 14.6 KB a row to be read and 15 thousand multiplications to be made; its share of whole tiles
/// is 3.1 million.
///
/// Means are for the backward by tiles. Rows that are sure not to need it go without: they have a support,
/// and many key tiles (is_spread).
///
/// Story, H200, 16 heads of 128 at 4096 tokens, 70 % zero tiles: 1541 instructions a row, 800 of them around
/// the values. One instruction less a pair unpacked and two an address, no second evaluation of the sums
/// where no score lies between estimate and root, the loop over long lists left out where there are none:
/// 1306, and forward 0.410 -> 0.387 ms. Without means 0.373.
namespace asplash::kernels::portable {

template <typename T, int head_dim>
struct SparseOutput : RowLanes<head_dim> {
  using RowLanes<head_dim>::kBatch;
  static constexpr int kTermsOfWarp = kListOfRow + kBatch;  ///< filled up to a whole batch
  static constexpr int kWarpBytes = kTermsOfWarp * 8 + 16;
  static constexpr int kRowBitsAt = kRowWarps * kWarpBytes;
  static constexpr int kBlocks = (head_dim <= 128 ? 32 : 24) / kRowWarps;
  static int shared_bytes(int key_tiles) { return kRowBitsAt + key_tiles * static_cast<int>(sizeof(uint2)); }
};

/// What a block has besides its place; in shared memory.
struct SparseState {
  unsigned int counters[EntmaxStatistics::kCounters];
  int taken[kRowWarps];  ///< entries of the support so far
  bool lost;             ///< the support: it does not fit
  bool again;            ///< and so rows are taken again, for means that were left out
  int listed;            ///< finds of all rows; where many more than there is room for, it will not do
  uint32_t without_mean[kTile / 32];  ///< bits of rows
  int rows_of_tiles;                  ///< row bits that are set
  SupportTile support;                ///< nullptr: no backward by pairs
  RowSource values;                   ///< the document's first
  // Of the scan, by row:
  float estimate[kTile];  ///< of the threshold; infinity: it sees no key, NaN: a score is not finite
  float lower[kTile];     ///< no more than the threshold
  ListLengths lengths[kTile];
};

template <typename T, int head_dim>
struct SparseBlock {
  using Layout = SparseOutput<T, head_dim>;

  const Launch& launch;
  const RowPlace& place;
  SparseState& state;
  char* shared;

  __device__ Terms terms() const {
    char* of_warp = shared + threadIdx.x / 32 * Layout::kWarpBytes;
    return {reinterpret_cast<float*>(of_warp), reinterpret_cast<int*>(of_warp + Layout::kTermsOfWarp * 4),
            reinterpret_cast<float2*>(of_warp + Layout::kTermsOfWarp * 8)};
  }
  __device__ uint2* row_bits() const { return reinterpret_cast<uint2*>(shared + Layout::kRowBitsAt); }
  __device__ void count(int counter, unsigned int number) const {
    if (launch.params.statistics != nullptr) atomicAdd(state.counters + counter, number);
  }
};

/// Of 8 columns.
struct SparseSums {
  float p[8] = {}, w[8] = {};
};

/// The finds of the warp's row above its bound into shared memory; how many.
template <typename T, int head_dim>
__device__ inline int load_finds(const SparseBlock<T, head_dim>& block, int row, float lower,
                                 ListLengths lengths) {
  const Find* lists = list_of_row(block.launch, block.place, row);
  const int lane = threadIdx.x % 32;
  const Terms terms = block.terms();
  int count = 0;
  const auto keep = [&](const Find& find) {
    const bool above = find.z > lower;
    const uint32_t lanes = __ballot_sync(0xFFFFFFFFU, above);
    if (above) {
      const int at = count + __popc(lanes & ((1U << lane) - 1));
      terms.scores[at] = find.z;
      terms.keys[at] = find.key;
    }
    count += __popc(lanes);
  };
  // What every list has in few loads that do not wait for each other, and then the longer ones' rest.
  constexpr int kAtOnce = 2;
  Find finds[4][kAtOnce];
#pragma unroll
  for (int list = 0; list < 4; ++list)
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      finds[list][i].z = -kInfinity;
      if (i * 32 + lane < lengths.of(list)) finds[list][i] = lists[list * kListOfLane + i * 32 + lane];
    }
#pragma unroll
  for (int list = 0; list < 4; ++list)
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (i * 32 < lengths.of(list)) keep(finds[list][i]);
  if (lengths.some_has(kAtOnce * 32)) {
#pragma unroll 1
    for (int list = 0; list < 4; ++list)
#pragma unroll 1
      for (int at = kAtOnce * 32; at < lengths.of(list); at += 32) {
        Find find{-kInfinity, 0};
        if (at + lane < lengths.of(list)) find = lists[list * kListOfLane + at + lane];
        keep(find);
      }
  }
  __syncwarp();
  return count;
}

/// Entries of the row tile's support that its first warps have room for. Each has its own, so that the same
/// lies in the same place every time.
template <typename T, int head_dim>
__device__ inline int room_of_warps(const SparseBlock<T, head_dim>& block, int warps) {
  const int rows = block.place.rows / kRowWarps * warps + min(block.place.rows % kRowWarps, warps);
  return rows * block.launch.params.shape.support_of_row();
}

/// Room for the row's support; nullptr where there is none, and then the row tile is lost.
template <typename T, int head_dim>
__device__ inline uint32_t* take_room(const SparseBlock<T, head_dim>& block, int row, float support) {
  SparseState& state = block.state;
  if (state.support.rows == nullptr || block.place.document.k_length > kMaximalKeys) return nullptr;
  const int warp = threadIdx.x / 32, count = static_cast<int>(support), end = room_of_warps(block, warp + 1);
  const int first = room_of_warps(block, warp) + state.taken[warp];
  const bool fits = count <= kSupportOfOneRow && first + count <= end;
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    state.taken[warp] += count;
    if (fits)
      state.support.rows[row] = PackedRange::of(first, count).word;
    else
      state.lost = true;
  }
  return fits ? state.support.entries + first : nullptr;
}

/// How many terms a row has, and in how many key tiles it has them, or nearly.
struct TermCounts {
  int terms, tiles;
};

/// Turns the row's finds into terms: drops those without weight, fills up to a whole batch. Marks the row in
/// the row bits of the key tiles that may give it weight: the backward's scores are rounded otherwise; tiles:
/// those not marked before. `room`: for the row's support, or nullptr.
template <typename T, int head_dim>
__device__ inline TermCounts list_terms(const SparseBlock<T, head_dim>& block, int row, int finds,
                                        const SolvedRow& solved, uint32_t* room) {
  using Layout = SparseOutput<T, head_dim>;
  const float margin = 1e-3F + 1e-6F * fabsf(solved.tau);
  const uint32_t bit = 1U << bit_of_row(row % 32);
  const int lane = threadIdx.x % 32;
  const Terms terms = block.terms();
  int count = 0, tiles = 0;
  __syncwarp();
#pragma unroll 1
  for (int first = 0; first < finds; first += 32) {
    const bool there = first + lane < finds;
    const float above = there ? terms.scores[first + lane] - solved.tau : -kInfinity;
    const int key = there ? terms.keys[first + lane] : 0;
    const uint32_t lanes = __ballot_sync(0xFFFFFFFFU, above > 0);
    __syncwarp();  // the reads are done
    bool marked = true;
    if (above > -margin) {
      uint32_t* bits = reinterpret_cast<uint32_t*>(block.row_bits() + key / kTile) + row / 32;
      marked = (atomicOr(bits, bit) & bit) != 0;
    }
    tiles += __popc(__ballot_sync(0xFFFFFFFFU, !marked));
    if (above > 0) {
      const int at = count + __popc(lanes & ((1U << lane) - 1));
      terms.scores[at] = above;
      terms.keys[at] = key;
      if (room != nullptr) room[at] = SupportEntry::of(key, above);
    }
    count += __popc(lanes);
  }
  __syncwarp();
  // Of a key that has weight: a value that is not finite breaks the row anyway.
  if (lane < Layout::kBatch && count > 0) {
    terms.scores[count + lane] = 0;
    terms.keys[count + lane] = terms.keys[count - 1];
  }
  __syncwarp();
  return {count, tiles};
}

/// Adds the terms' values: a lane's 8 columns of its group's terms.
template <Power power, bool with_mean, typename T, int head_dim>
__device__ inline void add_values(const SparseBlock<T, head_dim>& block, int count, SparseSums& sums) {
  using Layout = SparseOutput<T, head_dim>;
  if (!Layout::has_columns()) count = 0;
  const RowSource& values = block.state.values;
  const Terms terms = block.terms();
  const float* us = terms.scores + Layout::group();
  const float exponent = block.launch.exponent;
  Layout::gather(
      values.at<T>(Layout::column()), values.row_stride, [&](int i) { return terms.keys[i]; }, count,
      [&](int first, const uint4(&units)[4]) {
#pragma unroll
        for (int i = 0; i < Layout::kUnroll; ++i) {
          const float u = us[first + i * Layout::kAtOnce], w = slope_weight<power>(u, exponent), p = w * u;
          float v[8];
          unpack_unit<T>(units[i], v);
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            sums.p[c] = fmaf(p, v[c], sums.p[c]);
            if (with_mean) sums.w[c] = fmaf(w, v[c], sums.w[c]);
          }
        }
      });
}

/// Over all groups, and normalized. Whether with a mean.
template <typename T, int head_dim>
__device__ inline bool finish_sums(const SparseBlock<T, head_dim>& block, SparseSums& sums) {
  using Layout = SparseOutput<T, head_dim>;
  const float2 factors = *block.terms().factors;
  __syncwarp();  // before the next row's terms
  Layout::add_groups(sums.p);
#pragma unroll
  for (int c = 0; c < 8; ++c) sums.p[c] *= factors.x;
  if (factors.y == 0) return false;
  Layout::add_groups(sums.w);
#pragma unroll
  for (int c = 0; c < 8; ++c) sums.w[c] *= factors.y;
  return true;
}

/// Writes what a row has besides its columns.
template <typename T, int head_dim>
__device__ inline void write_facts(const SparseBlock<T, head_dim>& block, int row, float tau,
                                   float weight_sum) {
  const EntmaxAttentionParams& p = block.launch.params;
  if (threadIdx.x % 32 != 0) return;
  p.tau[block.place.row_index + row] = tau;
  if (p.weight_sum) p.weight_sum[block.place.row_index + row] = weight_sum;
}

template <typename T, int head_dim>
__device__ inline void write_columns(const SparseBlock<T, head_dim>& block, int row, bool with_mean,
                                     const SparseSums& sums) {
  using Layout = SparseOutput<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const RowPlace& place = block.place;
  if (Layout::group() != 0 || !Layout::has_columns()) return;
  const int column = Layout::column();
  const int token = place.document.q_begin + place.row0 + row;
  store_unit(token_pointer<T>(p.out, place.batch, place.head, token) + column, sums.p);
  if (with_mean && p.mean_value)
    store_unit(static_cast<T*>(p.mean_value) + (place.row_index + row) * head_dim + column, sums.w);
}

/// Writes a row without support, of `x` alone.
template <typename T, int head_dim>
__device__ inline void write_same(const SparseBlock<T, head_dim>& block, int row, float tau, float x) {
  SparseSums sums;
#pragma unroll
  for (int c = 0; c < 8; ++c) sums.p[c] = sums.w[c] = x;
  write_facts(block, row, tau, x);
  write_columns(block, row, true, sums);
  if (block.state.support.rows != nullptr && threadIdx.x % 32 == 0) block.state.support.rows[row] = 0;
}

/// Whether a row is one for the backward by pairs, well within the limit: a head all of whose rows have means
/// may go by tiles, and should where they have many pairs in few tiles. The first rows of a sequence do not
/// tell.
__device__ inline bool is_spread(const TermCounts& counts, int pairs_of_row) {
  return counts.tiles > 2 && 4 * counts.terms <= 3 * pairs_of_row * counts.tiles;
}

/// One row, by the warp.
template <typename T, int head_dim>
__device__ inline void take_row(const SparseBlock<T, head_dim>& block, int row) {
  const int lane = threadIdx.x % 32;
  SparseState& state = block.state;
  const EntmaxAttentionParams& p = block.launch.params;
  const float estimate = state.estimate[row], lower = state.lower[row], exponent = block.launch.exponent;
  using Counter = EntmaxStatistics;
  if (!(estimate < kInfinity)) {
    write_same(block, row, estimate, isnan(estimate) ? NAN : 0.0F);
    if (isnan(estimate) && lane == 0) {
      block.count(Counter::kRows, 1);
      block.count(Counter::kPasses, 1);
    }
    return;
  }
  const int finds = load_finds(block, row, lower, state.lengths[row]);
  SolvedRow solved;
  with_power(exponent, [&](auto power) {
    solved = solve_row<decltype(power)::value>(block.terms(), finds, estimate, lower, exponent);
  });
  uint32_t* room = state.again ? nullptr : take_room(block, row, solved.sums.support);
  const TermCounts counts = list_terms(block, row, finds, solved, room);
  const bool with_mean = p.mean_value != nullptr && (room == nullptr || exponent != 2.0F ||
                                                     state.listed > 2 * room_of_warps(block, kRowWarps) ||
                                                     !is_spread(counts, p.pairs_of_row));
  write_facts(block, row, solved.tau, solved.sums.slope);
  if (lane == 0 && !state.again) {
    block.count(Counter::kRows, 1);
    block.count(Counter::kSupport, static_cast<unsigned int>(counts.terms));
    block.count(min(Counter::kPasses + max(solved.steps, 1) - 1, Counter::kCounters - 1), 1);
    if (!with_mean && room != nullptr) atomicOr(&state.without_mean[row / 32], 1U << row % 32);
  }
  if (lane == 0)
    *block.terms().factors = {__fdividef(1, solved.sums.mass),
                              with_mean ? __fdividef(1, solved.sums.slope) : 0.0F};
  __syncwarp();
  SparseSums sums;
  if (exponent != 2.0F)
    add_values<Power::general, true>(block, counts.terms, sums);
  else if (with_mean)
    add_values<Power::square, true>(block, counts.terms, sums);
  else
    add_values<Power::square, false>(block, counts.terms, sums);
  const bool has_mean = finish_sums(block, sums);
  // No term where no score lies above a threshold that cannot be told from the largest one: beyond what fp32
  // holds. Means are sums of the same values.
  float zero = counts.terms > 0 ? 0.0F : NAN;
#pragma unroll
  for (int c = 0; c < 8; ++c) zero = fmaf(sums.p[c], 0, zero);
  if (!__all_sync(0xFFFFFFFFU, zero == 0)) {
    write_same(block, row, NAN, NAN);
    return;
  }
  write_columns(block, row, has_mean, sums);
}

/// Enters the row tile's support, or the loss of it, into its head's. The block meets.
template <typename T, int head_dim>
__device__ inline void finish_support(const SparseBlock<T, head_dim>& block) {
  const EntmaxAttentionParams& p = block.launch.params;
  SparseState& state = block.state;
  for (int tile = threadIdx.x; tile < block.place.key_tiles; tile += kRowThreads)
    atomicAdd(&state.rows_of_tiles, __popc(block.row_bits()[tile].x) + __popc(block.row_bits()[tile].y));
  __syncthreads();
  if (state.lost) {
    lose_support(state.support, block.place.rows, p, block.place.head_index);
    return;
  }
  if (threadIdx.x != 0) return;
  SupportOfHead& head = support_of_head(p, block.place.head_index);
  for (const int taken : state.taken) atomicAdd(&head.pairs, static_cast<uint32_t>(taken));
  atomicAdd(&head.rows_of_tiles, static_cast<uint32_t>(state.rows_of_tiles));
  if ((state.without_mean[0] | state.without_mean[1]) != 0) atomicAdd(&head.without_mean, 1U);
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kRowThreads, (SparseOutput<T, head_dim>::kBlocks))
    entmax_sparse_output_kernel(const __grid_constant__ Launch launch, BlockOrder order) {
  using Layout = SparseOutput<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char place_memory[sizeof(RowPlace)];
  __shared__ SparseState state;
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    const BlockOrder::Place at = row_place(launch, order);
    new (place_memory) RowPlace(place_of_listed(launch, at.tile, at.head, kTile));
    state.values = RowSource::of<T>(p.value, place.batch, place.kv_head, place.document.k_begin, 0);
    state.support = {nullptr, nullptr};
    if (p.support != nullptr)
      state.support = support_tile(p, place.head_index, place.document.q_begin + place.row0);
    state.lost = place.document.k_length > kMaximalKeys;  // longer documents have none
    state.again = false;
    state.rows_of_tiles = state.listed = 0;
    state.without_mean[0] = state.without_mean[1] = 0;
  }
  if (threadIdx.x < kRowWarps) state.taken[threadIdx.x] = 0;
  if (threadIdx.x < EntmaxStatistics::kCounters) state.counters[threadIdx.x] = 0;
  __syncthreads();
  wait_and_let_next_kernel_begin();
  if (place.rows == 0 || !rows_are_listed(launch, place)) return;
  const SparseBlock<T, head_dim> block{launch, place, state, shared};
  for (int tile = threadIdx.x; tile < place.key_tiles; tile += kRowThreads) block.row_bits()[tile] = {0, 0};
  if (static_cast<int>(threadIdx.x) < place.rows) {
    const int64_t own = place.row_index + threadIdx.x;
    state.estimate[threadIdx.x] = p.tau[own];
    state.lower[threadIdx.x] = launch.lower[own];
    state.lengths[threadIdx.x] = {launch.list_lengths[own]};
    atomicAdd(&state.listed, state.lengths[threadIdx.x].sum());
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();
  while (true) {
#pragma unroll 1
    for (int row = warp; row < place.rows; row += kRowWarps)
      if (!state.again || (state.without_mean[row / 32] >> row % 32 & 1) != 0) take_row(block, row);
    __syncthreads();
    if (state.again || !state.lost || (state.without_mean[0] | state.without_mean[1]) == 0) break;
    __syncthreads();
    if (threadIdx.x == 0) state.again = true;
    __syncthreads();
  }
  if (state.support.rows != nullptr) finish_support(block);
  for (int base = 0; base < place.key_tiles; base += kRowThreads) {
    const int tile = base + static_cast<int>(threadIdx.x);
    const bool there = tile < place.key_tiles;
    const uint2 bits = there ? block.row_bits()[tile] : uint2{0, 0};
    write_mask(launch, place, base, bits);
    const unsigned int zero = __popc(__ballot_sync(0xFFFFFFFFU, there && (bits.x | bits.y) == 0));
    if (lane == 0) block.count(EntmaxStatistics::kZeroTiles, zero);
  }
  if (p.statistics == nullptr) return;
  if (threadIdx.x == 0) block.count(EntmaxStatistics::kTiles, place.key_tiles);
  __syncthreads();
  if (threadIdx.x < EntmaxStatistics::kCounters && state.counters[threadIdx.x] != 0)
    atomicAdd(p.statistics + threadIdx.x, static_cast<unsigned long long>(state.counters[threadIdx.x]));
}

}  // namespace asplash::kernels::portable
