#pragma once

#include <new>

#include "portable/entmax_finds.cuh"
#include "portable/entmax_support.cuh"

/// Output of the row tiles that have a row whose support is too large for a list (entmax_finds.cuh; the
/// others: entmax_sparse_output.cuh): one block of four warps takes 64 rows through the candidate tiles of
/// the scan.
///
/// Weights are taken at the scan's estimate of the threshold; beside P V and W V the pass sums, per row, the
/// support n, S1 = sum w and the mass M = sum p. The threshold then follows in closed form (r = 2: the root
/// of the quadratic over the support); it lies d away, and O - r d (W V) is right to first order in d: its
/// error is n d^2 for r = 2. Where that is above a tolerance, the block's rows are taken again from their new
/// thresholds. With the histogram's estimates this is rare, but for rows nearly uniform over thousands of
/// keys (docs/kernels.md).
///
/// The mask that the backward gets holds, of every tile, the rows with a score above the *lower bound* of
/// their threshold, so that no row with a positive weight can be missing.
///
/// Story, for 16k tokens and 16 heads of 128 on an H200 (dense: 1.65 TFLOP), dense and with 70 % zero
/// tiles: 6.1 and 1.9 ms at first; 5.5 and 1.8 with z - tau in one operation and tiles from a list; 4.9
/// and 1.7 since the tensor cores sum w and the support (products with ones), too. Half of the time are
/// products now.
namespace asplash::kernels::portable {

/// Where another pass is taken. r = 2: n d^2 above this; it bounds |M - 1|, too, to 2 sqrt(n d^2) at n =
/// S1^2, and what is left after the correction to n d^2 itself. And n d / S1, which bounds the relative error
/// of mean_value, above kMeanTolerance: only rows whose support is a crowd near the threshold come there
/// first; rows of normal scores stay below 0.01. Others: |M - 1| above; r < 2: w is steep, r =
/// 1: even jumps, where p becomes 0, so that a threshold slightly off shows in the gradients.
#ifndef ASPLASH_CURVATURE_TOLERANCE
#define ASPLASH_CURVATURE_TOLERANCE 5e-4F
#endif
constexpr float kCurvatureTolerance = ASPLASH_CURVATURE_TOLERANCE;
constexpr float kMeanTolerance = 0.02F;
constexpr float kMassTolerance = 1e-2F;
constexpr float kSteepMassTolerance = 5e-4F;
constexpr int kMaximalPasses = 8;

template <typename T, int head_dim>
struct Output {
  static constexpr bool kInRegisters = head_dim <= 32;             ///< the queries
  static constexpr int kChunk = head_dim <= 128 ? head_dim : 128;  ///< output columns of one pass
  static constexpr int kStages = head_dim <= 128 ? 2 : 1;
  using Rows = Tile<T, head_dim>;
  using ValueRows = Tile<T, kChunk>;
  static constexpr int kStageBytes = Rows::kBytes + ValueRows::kBytes;
  /// Queries lie where the second stage will, if they move to registers.
  static constexpr int kQueryAt = kInRegisters ? kStageBytes : 0;
  static constexpr int kStageAt = kInRegisters ? 0 : Rows::kBytes;
  static constexpr int kSharedBytes = kStageAt + kStages * kStageBytes;
  static constexpr int kBlocks = head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
};

/// A thread's two rows: lane / 4 and lane / 4 + 8 of its warp's 16.
struct OutputRows {
  float taken_at[2];  ///< threshold at which weights are taken; +infinity: no weights
  float lower[2];     ///< bound of the threshold
  bool broken[2];
};

/// Over a row's scores above taken_at.
struct RowSums {
  float support[2] = {0, 0};
  float slope[2] = {0, 0};
  float mass[2] = {0, 0};
};

template <typename T, int head_dim>
struct OutputBlock {
  using Layout = Output<T, head_dim>;

  const Launch& launch;
  const RowPlace& place;
  char* shared;
  const T* keys;    ///< the document's first
  const T* values;  ///< likewise
  bool careful;     ///< a value may not be finite

  __device__ uint32_t address(int offset) const {
    uint32_t at = shared_address(shared + offset);
    if (head_dim > 128) asm volatile("" : "+r"(at));  // not kept in a register over the tile
    return at;
  }
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }
  __device__ int local_row(int r) const { return warp_row() + r * 8 + threadIdx.x % 32 / 4; }
  __device__ PairRule rule(int key_tile) const {
    return {launch.params.causal, place.row0 + place.document.offset(), key_tile * kTile,
            place.document.k_length, place.slope};
  }
  __device__ bool values_broken(int key_tile) const {
    return careful && !(launch.key_facts[place.facts_at + key_tile].value_norm < kInfinity);
  }
  __device__ void load_stage(int key_tile, int chunk, int stage) const {
    const int64_t key_stride = launch.params.key.token_stride,
                  value_stride = launch.params.value.token_stride;
    const int rows = place.document.k_length - key_tile * kTile;
    const uint32_t at = address(Layout::kStageAt) + stage * Layout::kStageBytes;
    Layout::Rows::load(at, keys + key_tile * (kTile * key_stride), key_stride, rows);
    Layout::ValueRows::load(at + Layout::Rows::kBytes,
                            values + key_tile * (kTile * value_stride) + chunk * Layout::kChunk, value_stride,
                            rows);
    commit_copies();
  }
};

template <int columns>
struct OutputAccumulators {
  float p[columns / 8][4];
  float w[columns / 8][4];
  // Times ones, by the tensor cores: sums over keys, the same in all columns.
  float slope[4];
  float support[4];
};

/// Adds one tile's weights to the sums and its P V, W V to the accumulators. v: z - taken_at.
template <typename T, int columns>
__device__ inline void add_output(const Scores<1>& v, float exponent, uint32_t values, RowSums& sums,
                                  OutputAccumulators<columns>& o) {
  PackedScores p, w;
  with_power(exponent, [&](auto power) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float u0 = fmaxf(v[0][n][2 * r], 0), u1 = fmaxf(v[0][n][2 * r + 1], 0);
        const float w0 = slope_weight<decltype(power)::value>(u0, exponent);
        const float w1 = slope_weight<decltype(power)::value>(u1, exponent);
        sums.mass[r] = fmaf(w0, u0, fmaf(w1, u1, sums.mass[r]));
        p[n][r] = Element<T>::pack(w0 * u0, w1 * u1);
        w[n][r] = Element<T>::pack(w0, w1);
        if constexpr (decltype(power)::value != Power::square)  // w may underflow where u does not
          sums.support[r] += (u0 > 0 ? 1.0F : 0.0F) + (u1 > 0 ? 1.0F : 0.0F);
      }
    }
  });
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const Fragment p_left = as_left(p, k), w_left = as_left(w, k);
#pragma unroll
    for (int n = 0; n < columns / 16; ++n) {
      const Fragment v = Tile<T, columns>::right_of_columns(values, k * 16, n * 16);
      Element<T>::multiply_add(o.p[2 * n], p_left, v.x[0], v.x[1]);
      Element<T>::multiply_add(o.p[2 * n + 1], p_left, v.x[2], v.x[3]);
      Element<T>::multiply_add(o.w[2 * n], w_left, v.x[0], v.x[1]);
      Element<T>::multiply_add(o.w[2 * n + 1], w_left, v.x[2], v.x[3]);
    }
    const uint32_t ones = Element<T>::pack(1, 1);
    const Fragment positive = {{Element<T>::positive(w_left.x[0]), Element<T>::positive(w_left.x[1]),
                                Element<T>::positive(w_left.x[2]), Element<T>::positive(w_left.x[3])}};
    Element<T>::multiply_add(o.slope, w_left, ones, ones);
    Element<T>::multiply_add(o.support, positive, ones, ones);
  }
}

/// Replaces the tile's values that are not finite by zero and marks the rows that give weight to a key with
/// such a value, in whatever column. v: z - taken_at. The block meets twice.
template <typename T, int head_dim>
__device__ void mend_values(const OutputBlock<T, head_dim>& block, const Scores<1>& v, int key_tile,
                            char* values, OutputRows& state) {
  constexpr int kChunk = Output<T, head_dim>::kChunk;
  __shared__ bool broken[kTile];
  __syncthreads();
  if (threadIdx.x < kTile) {
    T* row = reinterpret_cast<T*>(values + threadIdx.x * Tile<T, kChunk>::kStride);
    for (int c = 0; c < kChunk; ++c)
      if (!(fabsf(static_cast<float>(row[c])) < kInfinity)) row[c] = T(0.0F);
    const int key = key_tile * kTile + static_cast<int>(threadIdx.x);
    const T* whole = block.values + key * block.launch.params.value.token_stride;
    bool any = false;
    for (int c = 0; c < head_dim && key < block.place.document.k_length; ++c)
      any |= !(fabsf(static_cast<float>(whole[c])) < kInfinity);
    broken[threadIdx.x] = any;
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (broken[element_column(n, e)] && v[0][n][e] > 0) state.broken[e >> 1] = true;
}

/// z - taken_at of the warp's rows with the tile's keys.
template <typename T, int head_dim, typename Query>
__device__ inline void scores_above(const OutputBlock<T, head_dim>& block, const Query& query, int key_tile,
                                    uint32_t keys, const OutputRows& state, Scores<1>& v) {
  multiply_rows<T, head_dim>(v, query, keys);
  const PairRule rule = block.rule(key_tile);
  const float z_scale = block.launch.z_scale;
  if (rule.slope == 0 && rule.all_visible(block.warp_row(), kTile)) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) v[0][n][e] = fmaf(v[0][n][e], z_scale, -state.taken_at[e >> 1]);
    return;
  }
  to_z<false, true>(v, rule, z_scale, block.warp_row());
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) v[0][n][e] -= state.taken_at[e >> 1];
}

/// Which of the warp's rows hold weight, from ballots over its threads' first and second rows, into the row
/// bits of a tile of keys (tiles.cuh tells their order).
__device__ inline void mark_rows(uint32_t (&row_bits)[2], uint32_t first, uint32_t second) {
  const auto of_quads = [](uint32_t lanes) {
    return (lanes | lanes >> 1 | lanes >> 2 | lanes >> 3) & 0x11111111U;
  };
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0)
    atomicOr(&row_bits[warp / 2], (of_quads(first) | of_quads(second) << 1) << (warp % 2 * 2));
}

/// The mask of key tiles from base on, a thread each, this one's being `bits`.
__device__ inline void write_mask(const Launch& launch, const RowPlace& place, int base, uint2 bits) {
  const EntmaxAttentionShape& shape = launch.params.shape;
  const int tile = base + threadIdx.x;
  const bool there = tile < place.key_tiles;
  uint32_t* mask = launch.params.tile_mask + place.mask_at;
  const uint32_t word = __ballot_sync(0xFFFFFFFFU, there && (bits.x | bits.y) != 0);
  if (threadIdx.x % 32 == 0 && there) mask[tile / 32] = word;
  if (there) store_row_bits(mask + shape.row_bits_at(), tile, shape.row_bytes(), bits);
}

/// One pass over the candidate tiles for the output columns of `chunk`.
template <typename T, int head_dim, typename Query>
__device__ void output_pass(const OutputBlock<T, head_dim>& block, const Query& query, int chunk,
                            OutputRows& state, RowSums& sums,
                            OutputAccumulators<Output<T, head_dim>::kChunk>& o) {
  using Layout = Output<T, head_dim>;
  __shared__ int list[kThreads], listed;
  __shared__ uint32_t row_bits[kThreads][2];
  const uint32_t* candidates = block.launch.params.tile_mask + block.place.mask_at;
#pragma unroll
  for (int n = 0; n < Layout::kChunk / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) o.p[n][e] = o.w[n][e] = o.slope[e] = o.support[e] = 0;
  const float gap[2] = {state.lower[0] - state.taken_at[0], state.lower[1] - state.taken_at[1]};
  for (int base = 0; base < block.place.key_tiles; base += kThreads) {
    row_bits[threadIdx.x][0] = row_bits[threadIdx.x][1] = 0;
    make_list(base, block.place.key_tiles, list, listed,
              [&](int tile) { return (candidates[tile / 32] >> (tile % 32) & 1U) != 0; });
    if (listed > 0) block.load_stage(list[0], chunk, 0);
    for (int i = 0; i < listed; ++i) {
      const int stage = Layout::kStages == 2 ? i % 2 : 0, tile = list[i];
      wait_copies<0>();
      __syncthreads();
      if (Layout::kStages == 2 && i + 1 < listed) block.load_stage(list[i + 1], chunk, 1 - stage);
      const int at = Layout::kStageAt + stage * Layout::kStageBytes;
      Scores<1> v;
      scores_above<T, head_dim>(block, query, tile, block.address(at), state, v);
      float top[2] = {-kInfinity, -kInfinity};
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        top[0] = fmaxf(top[0], fmaxf(v[0][n][0], v[0][n][1]));
        top[1] = fmaxf(top[1], fmaxf(v[0][n][2], v[0][n][3]));
      }
      const uint32_t first = __ballot_sync(0xFFFFFFFFU, top[0] > gap[0]);
      const uint32_t second = __ballot_sync(0xFFFFFFFFU, top[1] > gap[1]);
      const bool active = (first | second) != 0;
      if (active) mark_rows(row_bits[tile % kThreads], first, second);
      if (block.values_broken(tile))
        mend_values<T, head_dim>(block, v, tile, block.shared + at + Layout::Rows::kBytes, state);
      if (active) {
        add_output<T, Layout::kChunk>(v, block.launch.exponent, block.address(at + Layout::Rows::kBytes),
                                      sums, o);
      }
      if (Layout::kStages == 1) {
        __syncthreads();
        if (i + 1 < listed) block.load_stage(list[i + 1], chunk, 0);
      }
    }
    __syncthreads();
    const uint2 bits = {row_bits[threadIdx.x][0], row_bits[threadIdx.x][1]};
    write_mask(block.launch, block.place, base, bits);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sums.slope[r] = o.slope[2 * r];
    sums.support[r] = block.launch.exponent == 2.0F ? o.support[2 * r] : quad_sum(sums.support[r]);
    sums.mass[r] = quad_sum(sums.mass[r]);
  }
}

/// Distance from the threshold where the sums were taken to the root; r = 2: that of the quadratic.
__device__ inline float root_distance(float support, float slope, float mass, float exponent) {
  if (exponent != 2.0F) return (mass - 1) / (exponent * slope);
  return (mass - 1) / (slope + sqrtf(fmaxf(slope * slope - support * (mass - 1), 0)));
}

/// Where a row's threshold is; moves taken_at if some row of the block needs another pass. crowd: of the
/// thread's first row, scores that may lie below taken_at and yet have weight.
struct Outcome {
  float distance[2] = {0, 0};  ///< from taken_at to the threshold
  bool again = false;
};
__device__ inline Outcome judge(OutputRows& state, const RowSums& sums, float exponent, float* crowd,
                                bool last_try) {
  const float tolerance = exponent > 2 ? kMassTolerance : kSteepMassTolerance;
  Outcome outcome;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!(state.taken_at[r] < kInfinity) || state.broken[r]) continue;
    // No score above taken_at: it was rounded up to the largest one. The bound lies below.
    const float d = sums.slope[r] > 0 ? root_distance(sums.support[r], sums.slope[r], sums.mass[r], exponent)
                                      : state.lower[r] - state.taken_at[r];
    outcome.distance[r] = d;
    if (!(sums.slope[r] > 0)) {
      outcome.again = true;
    } else if (exponent == 2.0F) {
      // A threshold below taken_at: scores between the two have weight, and are not in the sums.
      const float scores = sums.support[r] + (d < 0 ? crowd[r * 8] : 0.0F);
      outcome.again |=
          scores * d * d > kCurvatureTolerance || scores * fabsf(d) > kMeanTolerance * sums.slope[r];
    } else {
      outcome.again |= fabsf(sums.mass[r] - 1) > tolerance;
      // A crowd below taken_at, unless d is what fp32 rounds.
      if (exponent < 2 && d < -1e-6F)
        outcome.again |= crowd[r * 8] * __powf(-d, exponent) > kSteepMassTolerance;
    }
  }
  outcome.again = __syncthreads_or(outcome.again && !last_try);
  if (!outcome.again) return outcome;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!(state.taken_at[r] < kInfinity)) continue;
    state.taken_at[r] = fmaxf(state.taken_at[r] + outcome.distance[r], state.lower[r]);
    // Of the scores seen so far, all may lie below.
    if (threadIdx.x % 4 == 0) crowd[r * 8] += sums.support[r];
  }
  return outcome;
}

/// Writes a chunk of out and mean_value: accumulators mended to first order and normalized by their own sums.
template <typename T, int head_dim>
__device__ void write_output(const OutputBlock<T, head_dim>& block, int chunk, const OutputRows& state,
                             const RowSums& sums, const Outcome& outcome,
                             const OutputAccumulators<Output<T, head_dim>::kChunk>& o) {
  using Layout = Output<T, head_dim>;
  const EntmaxAttentionParams& p = block.launch.params;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = block.local_row(r);
    if (row >= block.place.rows) continue;
    const int token = block.place.document.q_begin + block.place.row0 + row;
    const bool plain = state.broken[r] || !(state.taken_at[r] < kInfinity);
    const float nothing = state.broken[r] ? NAN : 0.0F;
    const float mend = block.launch.exponent * outcome.distance[r];
    const float p_factor = plain ? 0 : 1 / (sums.mass[r] - mend * sums.slope[r]);
    const float w_factor = plain ? 0 : 1 / sums.slope[r];
    T* out = token_pointer<T>(p.out, block.place.batch, block.place.head, token);
    T* mean = p.mean_value == nullptr
                  ? nullptr
                  : static_cast<T*>(p.mean_value) + (block.place.row_index + row) * head_dim;
#pragma unroll
    for (int n = 0; n < Layout::kChunk / 8; ++n) {
      const int column = chunk * Layout::kChunk + n * 8 + threadIdx.x % 4 * 2;
      float o0 = (o.p[n][2 * r] - mend * o.w[n][2 * r]) * p_factor;
      float o1 = (o.p[n][2 * r + 1] - mend * o.w[n][2 * r + 1]) * p_factor;
      float w0 = o.w[n][2 * r] * w_factor, w1 = o.w[n][2 * r + 1] * w_factor;
      if (plain) o0 = o1 = w0 = w1 = nothing;
      *reinterpret_cast<uint32_t*>(out + column) = Element<T>::pack(o0, o1);
      if (mean) *reinterpret_cast<uint32_t*>(mean + column) = Element<T>::pack(w0, w1);
    }
  }
}

/// tau, the sum of w at it and the statistics of the row tile.
template <typename T, int head_dim>
__device__ void write_rows(const OutputBlock<T, head_dim>& block, const OutputRows& state,
                           const RowSums& sums, const Outcome& outcome, int passes) {
  const EntmaxAttentionParams& p = block.launch.params;
  unsigned int support = 0, rows = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = block.local_row(r);
    if (threadIdx.x % 4 != 0 || row >= block.place.rows) continue;
    const bool exists = state.taken_at[r] < kInfinity;
    float tau = exists ? fmaxf(state.taken_at[r] + outcome.distance[r], state.lower[r]) : kInfinity;
    if (state.broken[r]) tau = NAN;
    p.tau[block.place.row_index + row] = tau;
    if (p.weight_sum) p.weight_sum[block.place.row_index + row] = state.broken[r] ? NAN : sums.slope[r];
    support += exists && !state.broken[r] ? static_cast<unsigned int>(sums.support[r]) : 0;
    rows += exists || state.broken[r];
  }
  if (p.statistics == nullptr) return;
  __syncthreads();  // the mask
  const uint32_t* mask = p.tile_mask + block.place.mask_at;
  int active = 0;
  for (int word = threadIdx.x; word * 32 < block.place.key_tiles; word += kThreads)
    active += __popc(mask[word]);
  for (int step = 16; step > 0; step /= 2) {
    support += __shfl_xor_sync(0xFFFFFFFFU, support, step);
    rows += __shfl_xor_sync(0xFFFFFFFFU, rows, step);
    active += __shfl_xor_sync(0xFFFFFFFFU, active, step);
  }
  if (threadIdx.x % 32 != 0) return;
  // The warps' shares may wrap below zero on their own; unsigned addition is exact all the same.
  const unsigned long long tiles = threadIdx.x == 0 ? block.place.key_tiles : 0;
  using Counter = EntmaxStatistics;
  atomicAdd(p.statistics + Counter::kZeroTiles, tiles - static_cast<unsigned long long>(active));
  atomicAdd(p.statistics + Counter::kTiles, tiles);
  atomicAdd(p.statistics + Counter::kSupport, static_cast<unsigned long long>(support));
  atomicAdd(p.statistics + Counter::kRows, static_cast<unsigned long long>(rows));
  if (passes == 0) return;
  atomicAdd(p.statistics + min(Counter::kPasses + passes - 1, Counter::kCounters - 1),
            static_cast<unsigned long long>(rows));
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, (Output<T, head_dim>::kBlocks))
    entmax_output_kernel(const __grid_constant__ Launch launch) {
  using Layout = Output<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char place_memory[sizeof(RowPlace)];
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    const int row_tile = p.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    new (place_memory) RowPlace(launch, row_tile, kTile, blockIdx.y, blockIdx.z);
  }
  __syncthreads();
  if (place.rows != 0 && rows_are_listed(launch, place)) {  // entmax_sparse_output_kernel has them
    leave_without_work();
    return;
  }
  wait_for_kernels_before();
  if (place.rows == 0) {  // a row tile beyond the last document's
    for (int i = threadIdx.x; i < p.shape.mask_words(); i += kThreads) p.tile_mask[place.mask_at + i] = 0;
    return;
  }
  if (p.support != nullptr)
    lose_support(support_tile(p, place.head_index, place.document.q_begin + place.row0), place.rows, p,
                 place.head_index);
  float value_norm = 0;
  for (int tile = threadIdx.x; tile < place.key_tiles; tile += kThreads)
    value_norm = fmaxf(value_norm, launch.key_facts[place.facts_at + tile].value_norm);
  const OutputBlock<T, head_dim> block{
      launch,
      place,
      shared,
      token_pointer<const T>(p.key, place.batch, place.kv_head, place.document.k_begin),
      token_pointer<const T>(p.value, place.batch, place.kv_head, place.document.k_begin),
      __syncthreads_or(!(value_norm < kInfinity)) != 0};
  Layout::Rows::load(block.address(Layout::kQueryAt),
                     token_pointer<T>(p.query, place.batch, place.head, place.document.q_begin + place.row0),
                     p.query.token_stride, place.rows);
  commit_copies();
  OutputRows state;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool there = block.local_row(r) < place.rows;
    state.taken_at[r] = there ? p.tau[place.row_index + block.local_row(r)] : kInfinity;
    state.lower[r] = there ? launch.lower[place.row_index + block.local_row(r)] : kInfinity;
    state.broken[r] = isnan(state.taken_at[r]);
    if (state.broken[r]) state.taken_at[r] = kInfinity;
  }
  wait_copies<0>();
  __syncthreads();
  Fragment fragments[Layout::kInRegisters ? head_dim / 16 : 1];
  if constexpr (Layout::kInRegisters) {
#pragma unroll
    for (int k = 0; k < head_dim / 16; ++k)
      fragments[k] = Layout::Rows::left(block.address(Layout::kQueryAt), block.warp_row(), k * 16);
    __syncthreads();
  }
  const auto query = [&](int, int k) {
    if constexpr (Layout::kInRegisters)
      return fragments[k];
    else
      return Layout::Rows::left(block.address(Layout::kQueryAt), block.warp_row(), k * 16);
  };

  RowSums sums;
  Outcome outcome;
  OutputAccumulators<Layout::kChunk> o;
  int passes = 0;
  do {
    sums = RowSums{};
    output_pass<T, head_dim>(block, query, 0, state, sums, o);
    outcome = judge(state, sums, launch.exponent, launch.crowd + place.row_index + block.local_row(0),
                    ++passes == kMaximalPasses);
  } while (outcome.again);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // The quad's lanes saw different keys of the row.
    int broken = state.broken[r];
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 1);
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 2);
    state.broken[r] = broken;
  }
  write_output<T, head_dim>(block, 0, state, sums, outcome, o);
  for (int chunk = 1; chunk < head_dim / Layout::kChunk; ++chunk) {
    RowSums again;
    output_pass<T, head_dim>(block, query, chunk, state, again, o);
    write_output<T, head_dim>(block, chunk, state, sums, outcome, o);
  }
  write_rows<T, head_dim>(block, state, sums, outcome, passes);
}

}  // namespace asplash::kernels::portable
