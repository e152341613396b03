#pragma once

#include "portable/entmax_finds.cuh"
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
namespace asplash::kernels::portable {

/// What a key with weight adds to its row: p and w. Before they are known: its z, in place of p.
struct Terms {
  float2* weights;
  int* keys;
};

template <typename T, int head_dim>
struct SparseOutput : RowLanes<head_dim> {
  using RowLanes<head_dim>::kBatch;
  static constexpr int kTermsOfWarp = kListOfRow + kBatch;  ///< filled up to a whole batch
  static constexpr int kWarpBytes = kTermsOfWarp * 12;
  static constexpr int kRowBitsAt = kWarps * kWarpBytes;
  static constexpr int kBlocks = head_dim <= 128 ? 8 : 6;
  static int shared_bytes(int key_tiles) { return kRowBitsAt + key_tiles * static_cast<int>(sizeof(uint2)); }
};

constexpr int kMaximalSteps = 32;
/// Below this |M - 1| is rounding; p is normalized by M all the same.
constexpr float kMassRounding = 4e-6F;

struct SumsAt {
  float support, slope, mass;
};

/// Over the z of `count` terms of the warp's row.
template <Power power>
__device__ inline SumsAt sums_at(const Terms& terms, int count, float t, float exponent) {
  int support = 0;
  float slope = 0, mass = 0;
#pragma unroll 1
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    const float u = fmaxf(terms.weights[i].x - t, 0), w = slope_weight<power>(u, exponent);
    support += u > 0;
    slope += w;
    mass = fmaf(w, u, mass);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    slope += __shfl_xor_sync(0xFFFFFFFFU, slope, step);
    mass += __shfl_xor_sync(0xFFFFFFFFU, mass, step);
  }
  return {static_cast<float>(__reduce_add_sync(0xFFFFFFFFU, support)), slope, mass};
}

struct SolvedRow {
  float tau;
  SumsAt sums;  ///< at tau
  int steps;
};

/// Newton's step from where the sums were taken; r other than 1 and 2: on the r-norm, whose curve is nearly a
/// line, instead of on its power.
template <Power power>
__device__ inline float newton_step(const SumsAt& sums, float exponent) {
  if constexpr (power == Power::general)
    return (sums.mass - __powf(sums.mass, 1 - 1 / exponent)) / sums.slope;
  return (sums.mass - 1) / (exponent * sums.slope);
}

/// The threshold, from an estimate. F(t) = sum [z - t]_+^r is convex and falls: Newton's steps end at or
/// below the root, and so does the root over the scores above a t that lies above it (a subset of the
/// support). From below, the quadratic's root (r = 2) over the scores above t is no less than the root, and
/// the root itself if no score lies between the two; where it is not, the bound goes on from Newton's step.
template <Power power>
__device__ inline SolvedRow solve_row(const Terms& terms, int count, float t, float lower, float exponent) {
  float bound = lower;
  SolvedRow row{t, {}, 0};
  for (;; ++row.steps) {
    row.sums = sums_at<power>(terms, count, t, exponent);
    row.tau = t;
    const float excess = row.sums.mass - 1;
    if (fabsf(excess) <= kMassRounding || row.steps == kMaximalSteps) return row;
    float next = bound;
    if (row.sums.slope > 0) {
      const float newton = t + newton_step<power>(row.sums, exponent);
      const float root = power == Power::square
                             ? t + root_distance(row.sums.support, row.sums.slope, row.sums.mass, exponent)
                             : newton;
      bound = fmaxf(bound, excess > 0 ? newton : root);
      next = excess > 0 ? fmaxf(root, bound) : bound;
    }
    if (fabsf(next - t) <= 1.2e-7F * fabsf(t)) return row;
    t = next;
  }
}

/// What a block has besides its place; in shared memory.
struct SparseState {
  unsigned int counters[EntmaxStatistics::kCounters];
  int taken[kWarps];    ///< entries of the support so far
  int rows_of_tiles;    ///< row bits that are set
  SupportTile support;  ///< nullptr: no backward by pairs
  RowSource values;     ///< the document's first
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
    return {reinterpret_cast<float2*>(of_warp), reinterpret_cast<int*>(of_warp + Layout::kTermsOfWarp * 8)};
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
      terms.weights[at].x = find.z;
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
#pragma unroll 1
  for (int list = 0; list < 4; ++list)
#pragma unroll 1
    for (int at = kAtOnce * 32; at < lengths.of(list); at += 32) {
      Find find{-kInfinity, 0};
      if (at + lane < lengths.of(list)) find = lists[list * kListOfLane + at + lane];
      keep(find);
    }
  __syncwarp();
  return count;
}

/// Entries of the row tile's support that its first warps have room for.
__device__ inline int room_of_warps(const EntmaxAttentionParams& p, const RowPlace& place, int warps) {
  const int rows = place.rows / kWarps * warps + min(place.rows % kWarps, warps);
  return rows * p.shape.support_of_row();
}

/// Room for the row's support; nullptr where there is none.
template <typename T, int head_dim>
__device__ inline uint32_t* take_room(const SparseBlock<T, head_dim>& block, int row, float support) {
  SparseState& state = block.state;
  if (state.support.rows == nullptr) return nullptr;
  const int warp = threadIdx.x / 32, count = static_cast<int>(support);
  const int first = room_of_warps(block.launch.params, block.place, warp) + state.taken[warp];
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    state.taken[warp] += count;
    state.support.rows[row] =
        SupportOfRow::of(static_cast<uint32_t>(first), static_cast<uint32_t>(count)).word;
  }
  return first + count <= room_of_warps(block.launch.params, block.place, warp + 1)
             ? state.support.entries + first
             : nullptr;
}

/// Turns the row's finds into terms, drops those without weight and fills up to a whole batch; how many.
/// Marks the row in the row bits of the key tiles that may give it weight: the backward's scores are rounded
/// otherwise. `room`: for the row's support, or nullptr.
template <Power power, typename T, int head_dim>
__device__ inline int list_terms(const SparseBlock<T, head_dim>& block, int row, int finds,
                                 const SolvedRow& solved, uint32_t* room) {
  using Layout = SparseOutput<T, head_dim>;
  const float exponent = block.launch.exponent;
  const float p_factor = 1 / solved.sums.mass, w_factor = 1 / solved.sums.slope;
  const float margin = 1e-3F + 1e-6F * fabsf(solved.tau);
  const uint32_t bit = 1U << bit_of_row(row % 32);
  const int lane = threadIdx.x % 32;
  const Terms terms = block.terms();
  int count = 0;
  __syncwarp();
#pragma unroll 1
  for (int first = 0; first < finds; first += 32) {
    const bool there = first + lane < finds;
    const float above = there ? terms.weights[first + lane].x - solved.tau : -kInfinity;
    const int key = there ? terms.keys[first + lane] : 0;
    const uint32_t lanes = __ballot_sync(0xFFFFFFFFU, above > 0);
    __syncwarp();  // the reads are done
    if (above > -margin)
      atomicOr(reinterpret_cast<uint32_t*>(block.row_bits() + key / kTile) + row / 32, bit);
    if (above > 0) {
      const float w = slope_weight<power>(above, exponent);
      const int at = count + __popc(lanes & ((1U << lane) - 1));
      terms.weights[at] = {w * above * p_factor, w * w_factor};
      terms.keys[at] = key;
      if (room != nullptr) room[at] = SupportEntry::of(key, above);
    }
    count += __popc(lanes);
  }
  __syncwarp();
  // Of a key that has weight: a value that is not finite breaks the row anyway.
  if (lane < Layout::kBatch && count > 0) {
    terms.weights[count + lane] = {0, 0};
    terms.keys[count + lane] = terms.keys[count - 1];
  }
  __syncwarp();
  return count;
}

/// Sums of the terms' values: a lane's 8 columns, the same in all groups of kLanes.
template <typename T, int head_dim>
__device__ inline void add_values(const SparseBlock<T, head_dim>& block, int count, SparseSums& sums) {
  using Layout = SparseOutput<T, head_dim>;
  if (!Layout::has_columns()) count = 0;
  const RowSource& values = block.state.values;
  const Terms terms = block.terms();
  const float2* group_weights = terms.weights + Layout::group();
  Layout::gather(values.at<T>(Layout::column()), values.row_stride, terms.keys, count,
                 [&](int first, const uint4(&units)[4]) {
#pragma unroll
                   for (int i = 0; i < Layout::kUnroll; ++i) {
                     const float2 weights = group_weights[first + i * Layout::kAtOnce];
                     float v[8];
                     unpack_unit<T>(units[i], v);
#pragma unroll
                     for (int c = 0; c < 8; ++c) {
                       sums.p[c] = fmaf(weights.x, v[c], sums.p[c]);
                       sums.w[c] = fmaf(weights.y, v[c], sums.w[c]);
                     }
                   }
                 });
  __syncwarp();  // before the next row's terms
  Layout::add_groups(sums.p);
  Layout::add_groups(sums.w);
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
__device__ inline void write_columns(const SparseBlock<T, head_dim>& block, int row, const SparseSums& sums) {
  using Layout = SparseOutput<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
  const RowPlace& place = block.place;
  if (Layout::group() != 0 || !Layout::has_columns()) return;
  const int column = Layout::column();
  const int token = place.document.q_begin + place.row0 + row;
  store_unit(token_pointer<T>(p.out, place.batch, place.head, token) + column, sums.p);
  if (p.mean_value)
    store_unit(static_cast<T*>(p.mean_value) + (place.row_index + row) * head_dim + column, sums.w);
}

/// Writes a row without support, of `x` alone.
template <typename T, int head_dim>
__device__ inline void write_same(const SparseBlock<T, head_dim>& block, int row, float tau, float x) {
  SparseSums sums;
#pragma unroll
  for (int c = 0; c < 8; ++c) sums.p[c] = sums.w[c] = x;
  write_facts(block, row, tau, x);
  write_columns(block, row, sums);
  if (block.state.support.rows != nullptr && threadIdx.x % 32 == 0) block.state.support.rows[row] = 0;
}

/// One row, by the warp. estimate: of its threshold, infinity: it sees no key, NaN: a score is not finite.
template <typename T, int head_dim>
__device__ inline void take_row(const SparseBlock<T, head_dim>& block, int row, float estimate, float lower,
                                ListLengths lengths) {
  const RowPlace& place = block.place;
  const int lane = threadIdx.x % 32;
  using Counter = EntmaxStatistics;
  if (!(estimate < kInfinity)) {
    write_same(block, row, estimate, isnan(estimate) ? NAN : 0.0F);
    if (isnan(estimate) && lane == 0) {
      block.count(Counter::kRows, 1);
      block.count(Counter::kPasses, 1);
    }
    return;
  }
  const int finds = load_finds(block, row, lower, lengths);
  SolvedRow solved;
  int count = 0;
  with_power(block.launch.exponent, [&](auto power) {
    constexpr Power kPower = decltype(power)::value;
    solved = solve_row<kPower>(block.terms(), finds, estimate, lower, block.launch.exponent);
    uint32_t* room = take_room(block, row, solved.sums.support);
    count = list_terms<kPower>(block, row, finds, solved, room);
  });
  write_facts(block, row, solved.tau, solved.sums.slope);
  if (lane == 0) {
    block.count(Counter::kRows, 1);
    block.count(min(Counter::kPasses + max(solved.steps, 1) - 1, Counter::kCounters - 1), 1);
  }
  // None where no score lies above a threshold that cannot be told from the largest one: beyond what fp32
  // holds.
  const auto support = static_cast<unsigned int>(solved.sums.support);
  SparseSums sums;
  add_values(block, count, sums);
  bool finite = support > 0;
#pragma unroll
  for (int c = 0; c < 8; ++c) finite &= fabsf(sums.p[c]) < kInfinity && fabsf(sums.w[c]) < kInfinity;
  if (!__all_sync(0xFFFFFFFFU, finite)) {
    write_same(block, row, NAN, NAN);
    return;
  }
  write_columns(block, row, sums);
  if (lane == 0) block.count(Counter::kSupport, support);
}

/// Enters the row tile's support into its head's, or, if there was too little room, the loss of it. The block
/// meets.
template <typename T, int head_dim>
__device__ inline void finish_support(const SparseBlock<T, head_dim>& block) {
  const EntmaxAttentionParams& p = block.launch.params;
  SparseState& state = block.state;
  for (int tile = threadIdx.x; tile < block.place.key_tiles; tile += kThreads)
    atomicAdd(&state.rows_of_tiles, __popc(block.row_bits()[tile].x) + __popc(block.row_bits()[tile].y));
  __syncthreads();
  if (threadIdx.x != 0) return;
  int pairs = 0;
  bool fits = block.place.document.k_length <= kMaximalKeys;  // longer documents have no support
  for (int i = 0; i < kWarps; ++i) {
    pairs += state.taken[i];
    fits &= state.taken[i] <= room_of_warps(p, block.place, i + 1) - room_of_warps(p, block.place, i);
  }
  if (!fits) {
    lose_support(state.support, p, block.place.head_index);
    return;
  }
  SupportOfHead& head = support_of_head(p, block.place.head_index);
  atomicAdd(&head.pairs, static_cast<uint32_t>(pairs));
  atomicAdd(&head.rows_of_tiles, static_cast<uint32_t>(state.rows_of_tiles));
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, (SparseOutput<T, head_dim>::kBlocks))
    entmax_sparse_output_kernel(const __grid_constant__ Launch launch, BlockOrder order) {
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
    state.rows_of_tiles = 0;
  }
  if (threadIdx.x < kWarps) state.taken[threadIdx.x] = 0;
  if (threadIdx.x < EntmaxStatistics::kCounters) state.counters[threadIdx.x] = 0;
  __syncthreads();
  if (place.rows == 0 || !rows_are_listed(launch, place)) return;
  const SparseBlock<T, head_dim> block{launch, place, state, shared};
  for (int tile = threadIdx.x; tile < place.key_tiles; tile += kThreads) block.row_bits()[tile] = {0, 0};
  // Lane i keeps what is known about the warp's i-th row.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t own = place.row_index + min(lane * kWarps + warp, place.rows - 1);
  const float estimate = p.tau[own], lower = launch.lower[own];
  const uint32_t lengths = launch.list_lengths[own];
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i * kWarps + warp < place.rows; ++i)
    take_row(block, i * kWarps + warp, __shfl_sync(0xFFFFFFFFU, estimate, i),
             __shfl_sync(0xFFFFFFFFU, lower, i), ListLengths{__shfl_sync(0xFFFFFFFFU, lengths, i)});
  __syncthreads();
  if (state.support.rows != nullptr) finish_support(block);
  for (int base = 0; base < place.key_tiles; base += kThreads) {
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
