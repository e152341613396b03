#pragma once

#include <new>

#include "portable/entmax_pairs.cuh"

/// dQ from the support, and dS of its pairs for entmax_pair_keys.cuh:
///
///     dP_ij = dO_i . v_j     delta_i = sum_j w_ij dP_ij / sum_j w_ij     dS_ij = w_ij (dP_ij - delta_i)
///     dQ_i = scale sum_j dS_ij k_j
///
/// A warp takes a row at a time: its keys from the support (entmax_support.cuh), their values and then their
/// keys gathered from wherever they lie, in fp32. No score is computed again, and delta needs no mean of
/// values: all dP of a row are at hand. A block takes a row tile. It first counts its pairs by key tile, so
/// that each can be written where that one's are.
namespace asplash::kernels::portable {

template <typename T, int head_dim>
struct PairRows : RowLanes<head_dim> {
  using RowLanes<head_dim>::kLanes;
  using RowLanes<head_dim>::kBatch;
  static constexpr int kRowsOfWarp = kTile / kRowWarps;
  static constexpr int kTermsOfWarp = kSupportOfOneRow + kBatch;  ///< filled up to a whole batch
  static constexpr int kWarpBytes = kTermsOfWarp * 8;
  static constexpr int kUnitsAt = kRowWarps * kWarpBytes;
  static constexpr int kBlocks = (head_dim <= 128 ? 32 : 16) / kRowWarps;
};

/// What a block knows of a key tile.
struct UnitOfRows {
  uint64_t rows;  ///< bits of those that have pairs
  int next;       ///< how many pairs; then: where the next one goes
};
template <typename T, int head_dim>
constexpr int pair_rows_shared_bytes(int units) {
  return PairRows<T, head_dim>::kUnitsAt + units * static_cast<int>(sizeof(UnitOfRows));
}

template <typename T, int head_dim>
struct PairRowsBlock {
  using Layout = PairRows<T, head_dim>;

  const Launch& launch;
  const RowPlace& place;
  const SupportTile support;
  const RowSource& keys_at;  ///< of the document
  const RowSource& values_at;
  Pair* pairs;  ///< of the row tile
  char* shared;

  // Of the warp's row:
  __device__ uint32_t* entries() const {
    return reinterpret_cast<uint32_t*>(shared + threadIdx.x / 32 * Layout::kWarpBytes);
  }
  __device__ float* products() const {  ///< dP, then dS
    return reinterpret_cast<float*>(entries() + Layout::kTermsOfWarp);
  }
  __device__ UnitOfRows* units() const { return reinterpret_cast<UnitOfRows*>(shared + Layout::kUnitsAt); }
};

/// Counts pairs with each key tile, writes the segments and where pairs go. own_row: of the warp's rows,
/// kRowWarps apart, that of row i in lane i. The block meets.
template <typename T, int head_dim>
__device__ inline void place_pairs(const PairRowsBlock<T, head_dim>& block, uint32_t own_row, int row_tile,
                                   int head) {
  using Layout = PairRows<T, head_dim>;
  constexpr int kAhead = 4;  // rows whose first 64 entries are loaded at once
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = block.place.key_tiles;
  UnitOfRows* units = block.units();
  for (int i = threadIdx.x; i < tiles; i += kRowThreads) units[i] = {0, 0};
  __syncthreads();
  const auto count_entry = [&](int row, uint32_t entry) {
    UnitOfRows& unit = units[SupportEntry::key(entry) / kTile];
    atomicAdd(&unit.next, 1);
    atomicOr(reinterpret_cast<uint32_t*>(&unit.rows) + row / 32, 1U << row % 32);
  };
#pragma unroll 1
  for (int begin = 0; begin < Layout::kRowsOfWarp; begin += kAhead) {
    uint32_t entries[kAhead][2];  // 0: none
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const PackedRange row{__shfl_sync(0xFFFFFFFFU, own_row, begin + i)};
#pragma unroll
      for (int j = 0; j < 2; ++j)
        entries[i][j] = j * 32 + lane < row.count() ? block.support.entries[row.first() + j * 32 + lane] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int number = (begin + i) * kRowWarps + warp;
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (entries[i][j] != 0) count_entry(number, entries[i][j]);
      const PackedRange row{__shfl_sync(0xFFFFFFFFU, own_row, begin + i)};
#pragma unroll 1
      for (int at = 64 + lane; at < row.count(); at += 32)
        count_entry(number, block.support.entries[row.first() + at]);
    }
  }
  __syncthreads();
  __shared__ int of_warps[kRowWarps];
  int before = 0;  // pairs with key tiles below `base`
#pragma unroll 1
  for (int base = 0; base < tiles; base += kRowThreads) {
    const int tile = base + static_cast<int>(threadIdx.x);
    const UnitOfRows unit = tile < tiles ? units[tile] : UnitOfRows{0, 0};
    const int sum = sum_up_to_lane(unit.next);
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    int first = before + sum - unit.next;
#pragma unroll
    for (int of = 0; of < kRowWarps; ++of) {
      if (of < warp) first += of_warps[of];
      before += of_warps[of];
    }
    __syncthreads();
    if (tile >= tiles) continue;
    segments_of(block.launch, head, tile)[row_tile] = {PackedRange::of(first, unit.next), unit.rows};
    units[tile].next = first;
  }
  __syncthreads();
}

/// The row's support into shared memory.
template <typename T, int head_dim>
__device__ inline void load_support(const PairRowsBlock<T, head_dim>& block, PackedRange row) {
  const int lane = threadIdx.x % 32, count = row.count();
  uint32_t* entries = block.entries();
#pragma unroll 1
  for (int at = lane; at < count; at += 32) entries[at] = block.support.entries[row.first() + at];
  __syncwarp();
  if (lane < PairRows<T, head_dim>::kBatch) entries[count + lane] = entries[count - 1];
  __syncwarp();
}

/// Calls take(first, units) for each batch of the row's keys, as RowLanes::gather().
template <typename T, int head_dim, typename Take>
__device__ inline void gather_keys(const PairRowsBlock<T, head_dim>& block, const RowSource& source,
                                   int count, Take take) {
  using Layout = PairRows<T, head_dim>;
  const uint32_t* entries = block.entries();
  Layout::gather(
      source.at<T>(Layout::has_columns() ? Layout::column() : 0), source.row_stride,
      [&](int i) { return SupportEntry::key(entries[i]); }, count, take);
}

/// The sum of four numbers each over a group's lanes: that of number `own`, in each lane.
template <int lanes>
__device__ inline float sum_four(const float (&x)[4]) {
  const bool upper = (threadIdx.x & lanes / 2) != 0, odd = (threadIdx.x & lanes / 4) != 0;
  const float a = (upper ? x[2] : x[0]) + __shfl_xor_sync(0xFFFFFFFFU, upper ? x[0] : x[2], lanes / 2);
  const float b = (upper ? x[3] : x[1]) + __shfl_xor_sync(0xFFFFFFFFU, upper ? x[1] : x[3], lanes / 2);
  float sum = (odd ? b : a) + __shfl_xor_sync(0xFFFFFFFFU, odd ? a : b, lanes / 4);
#pragma unroll
  for (int step = lanes / 8; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, step);
  return sum;
}

/// dP of the row's keys.
template <typename T, int head_dim>
__device__ inline void multiply_values(const PairRowsBlock<T, head_dim>& block, int row, int count) {
  using Layout = PairRows<T, head_dim>;
  const RowPlace& place = block.place;
  float grad[8] = {};
  if (Layout::has_columns()) {
    const T* from = token_pointer<const T>(block.launch.gradients.grad_out, place.batch, place.head,
                                           place.document.q_begin + place.row0 + row);
    unpack_unit<T>(__ldg(reinterpret_cast<const uint4*>(from + Layout::column())), grad);
  }
  const int own = threadIdx.x % Layout::kLanes / (Layout::kLanes / 4);
  const bool writes = threadIdx.x % (Layout::kLanes / 4) == 0;
  float* products = block.products() + own * Layout::kAtOnce + Layout::group();
  gather_keys(block, block.values_at, count, [&](int first, const uint4(&units)[4]) {
    float dots[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float v[8];
      unpack_unit<T>(units[i], v);
      dots[i] = 0;
#pragma unroll
      for (int c = 0; c < 8; ++c) dots[i] = fmaf(grad[c], v[c], dots[i]);
      if (!Layout::has_columns()) dots[i] = 0;
    }
    const float sum = sum_four<Layout::kLanes>(dots);
    if (writes) products[first] = sum;
  });
  __syncwarp();
}

/// dS from dP, and the row's pairs to their key tiles.
template <Power power, typename T, int head_dim>
__device__ inline void take_pairs(const PairRowsBlock<T, head_dim>& block, int row, int count) {
  const int lane = threadIdx.x % 32;
  const float exponent = block.launch.exponent;
  const uint32_t* entries = block.entries();
  float* products = block.products();
  float weight = 0, product = 0;
#pragma unroll 1
  for (int at = lane; at < count; at += 32) {
    const float w = slope_weight<power>(SupportEntry::u(entries[at]), exponent);
    weight += w;
    product = fmaf(w, products[at], product);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    weight += __shfl_xor_sync(0xFFFFFFFFU, weight, step);
    product += __shfl_xor_sync(0xFFFFFFFFU, product, step);
  }
  const float delta = product / weight;
  const uint64_t rows_before = (uint64_t{1} << row) - 1;
#pragma unroll 1
  for (int at = lane; at < count; at += 32) {
    const int key = SupportEntry::key(entries[at]);
    const float u = SupportEntry::u(entries[at]), w = slope_weight<power>(u, exponent),
                ds = w * (products[at] - delta);
    UnitOfRows& unit = block.units()[key / kTile];
    const int rank = __popcll(unit.rows & rows_before);
    block.pairs[atomicAdd(&unit.next, 1)] = Pair::of<T>(row, rank, key, u * w, ds);
    products[at] = ds;
  }
  if (lane < PairRows<T, head_dim>::kBatch) products[count + lane] = 0;
  __syncwarp();
}

/// Writes the row's dQ, of lane group 0.
template <typename T, int head_dim>
__device__ inline void write_grad_query(const PairRowsBlock<T, head_dim>& block, int row,
                                        const float (&x)[8]) {
  using Layout = PairRows<T, head_dim>;
  if (Layout::group() != 0 || !Layout::has_columns()) return;
  store_unit(token_pointer<T>(block.launch.gradients.grad_query, block.place.batch, block.place.head,
                              block.place.document.q_begin + block.place.row0 + row) +
                 Layout::column(),
             x);
}

/// One row, by the warp.
template <typename T, int head_dim>
__device__ inline void take_row_of_pairs(const PairRowsBlock<T, head_dim>& block, int row,
                                         PackedRange support, float tau) {
  using Layout = PairRows<T, head_dim>;
  float sums[8];
  const int count = support.count();
  if (count == 0) {  // it sees no key, or a score is not finite
#pragma unroll
    for (int c = 0; c < 8; ++c) sums[c] = isnan(tau) ? NAN : 0;
    write_grad_query(block, row, sums);
    return;
  }
  load_support(block, support);
  multiply_values(block, row, count);
  with_power(block.launch.exponent,
             [&](auto power) { take_pairs<decltype(power)::value>(block, row, count); });
#pragma unroll
  for (int c = 0; c < 8; ++c) sums[c] = 0;
  const float* products = block.products() + Layout::group();
  gather_keys(block, block.keys_at, count, [&](int first, const uint4(&units)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float ds = products[first + i * Layout::kAtOnce];
      float k[8];
      unpack_unit<T>(units[i], k);
#pragma unroll
      for (int c = 0; c < 8; ++c) sums[c] = fmaf(ds, k[c], sums[c]);
    }
  });
  __syncwarp();  // before the next row's support
  Layout::add_groups(sums);
#pragma unroll
  for (int c = 0; c < 8; ++c) sums[c] *= block.launch.params.scale;
  write_grad_query(block, row, sums);
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kRowThreads, (PairRows<T, head_dim>::kBlocks))
    entmax_pair_rows_kernel(const __grid_constant__ Launch launch, BlockOrder order) {
  using Layout = PairRows<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char place_memory[sizeof(RowPlace)];
  __shared__ RowSource keys, values;
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  const auto [row_tile, head] = row_place(launch, order);
  wait_and_let_next_kernel_begin();
  if (threadIdx.x == 0) {
    new (place_memory) RowPlace(place_of_listed(launch, row_tile, head, kTile));
    keys = RowSource::of<T>(p.key, place.batch, place.kv_head, place.document.k_begin, 0);
    values = RowSource::of<T>(p.value, place.batch, place.kv_head, place.document.k_begin, 0);
  }
  __syncthreads();
  if (place.rows == 0 || place.document.k_length > kMaximalKeys) return;
  const PairRowsBlock<T, head_dim> block{
      launch, place,  support_tile(p, place.head_index, place.document.q_begin + place.row0),
      keys,   values, pairs_of(launch, head, place.document.q_begin + place.row0),
      shared};
  const int64_t kv_index = int64_t{place.batch} * p.shape.kv_heads + place.kv_head;
  if (!BackwardWays::of_group(p, kv_index).pairs) return;
  if (!BackwardWays::of_head(p, place.head_index).pairs || block.support.rows[0] == kNoSupport) {
    for (int tile = threadIdx.x; tile < place.key_tiles; tile += kRowThreads)
      segments_of(launch, head, tile)[row_tile] = Segment{};
    return;
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = lane * kRowWarps + warp;
  const uint32_t own_row = own < place.rows ? block.support.rows[own] : 0;
  const float own_tau = p.tau[place.row_index + min(own, place.rows - 1)];
  place_pairs(block, own_row, row_tile, head);
#pragma unroll 1
  for (int i = 0; i * kRowWarps + warp < place.rows; ++i)
    take_row_of_pairs(block, i * kRowWarps + warp, PackedRange{__shfl_sync(0xFFFFFFFFU, own_row, i)},
                      __shfl_sync(0xFFFFFFFFU, own_tau, i));
}

}  // namespace asplash::kernels::portable
