#pragma once

#include <new>

#include "portable/tiles.cuh"

/// Output: one block of four warps takes 64 rows through the candidate tiles of the scan.
///
/// Weights are taken at the scan's estimate of the threshold; beside P V and W V the pass sums, per row, the support
/// n, S1 = sum w and the mass M = sum p. The threshold then follows in closed form (r = 2: the root of the quadratic
/// over the support); it lies d away, and O - r d (W V) is right to first order in d: its error is n d^2 for r = 2.
/// Where |M - 1| or n d^2 is above its tolerance, the block's rows are taken again from their new thresholds. With
/// the histogram's estimates this is rare (docs/kernels.md: one pass for all but a few rows in a million).
///
/// The mask that the backward gets holds the tiles with a score above the *lower bound* of some row's threshold, so
/// that no tile with a positive weight can be missing.
namespace asplash::kernels::portable {

/// Largest |M - 1| that the first-order correction may mend. The histogram's estimate leaves, for r = 2, a standard
/// deviation of 0.58 bin widths: with 58 bins a unit this is five of them.
constexpr float kMassTolerance = 0.05F;
constexpr float kGeneralMassTolerance = 0.02F;  ///< r other than 1 and 2: one Newton step follows
constexpr float kCurvatureTolerance = 5e-4F;    ///< of n d^2, r = 2
constexpr int kMaximalPasses = 8;

template <typename T, int head_dim>
struct Output {
  static constexpr bool kInRegisters = head_dim <= 96;            ///< the queries
  static constexpr int kChunk = head_dim <= 128 ? head_dim : 128;  ///< output columns of one pass
  static constexpr int kStages = head_dim <= 128 ? 2 : 1;
  using Rows = Tile<T, head_dim>;
  using ValueRows = Tile<T, kChunk>;
  static constexpr int kStageBytes = Rows::kBytes + ValueRows::kBytes;
  /// Queries lie where the second stage will, if they move to registers.
  static constexpr int kQueryAt = kInRegisters ? kStageBytes : 0;
  static constexpr int kStageAt = kInRegisters ? 0 : Rows::kBytes;
  static constexpr int kMasksAt = kStageAt + kStages * kStageBytes;
  /// Candidate and final mask of the row tile follow.
  static int shared_bytes(int mask_words) { return kMasksAt + 2 * mask_words * 4; }
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

  __device__ uint32_t address(int offset) const { return shared_address(shared + offset); }
  __device__ uint32_t* candidates() const { return reinterpret_cast<uint32_t*>(shared + Layout::kMasksAt); }
  __device__ uint32_t* final_mask() const { return candidates() + launch.params.shape.mask_words(); }
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }
  __device__ int local_row(int r) const { return warp_row() + r * 8 + threadIdx.x % 32 / 4; }
  __device__ PairRule rule(int key_tile) const {
    return {launch.params.causal, place.row0 + place.document.offset(), key_tile * kTile, place.document.k_length,
            place.slope};
  }
  __device__ bool values_broken(int key_tile) const {
    return !(launch.key_facts[place.facts_at + key_tile].value_norm < kInfinity);
  }
  __device__ void load_stage(int key_tile, int chunk, int stage) const {
    const EntmaxAttentionParams& p = launch.params;
    const int token = place.document.k_begin + key_tile * kTile, keys = place.document.k_length - key_tile * kTile;
    const uint32_t at = address(Layout::kStageAt) + stage * Layout::kStageBytes;
    Layout::Rows::load(at, token_pointer<T>(p.key, place.batch, place.kv_head, token), p.key.token_stride, keys);
    Layout::ValueRows::load(at + Layout::Rows::kBytes,
                            token_pointer<T>(p.value, place.batch, place.kv_head, token) + chunk * Layout::kChunk,
                            p.value.token_stride, keys);
    commit_copies();
  }
};

template <int columns>
struct OutputAccumulators {
  float p[columns / 8][4];
  float w[columns / 8][4];
};

/// Adds one tile's weights to the sums and its P V, W V to the accumulators.
template <typename T, int columns>
__device__ void add_output(const Scores<1>& z, const OutputRows& state, float exponent, uint32_t values, RowSums& sums,
                           OutputAccumulators<columns>& o) {
  PackedScores p, w;
  with_power(exponent, [&](auto power) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float u0 = fmaxf(z[0][n][2 * r] - state.taken_at[r], 0);
        const float u1 = fmaxf(z[0][n][2 * r + 1] - state.taken_at[r], 0);
        const float w0 = slope_weight<decltype(power)::value>(u0, exponent);
        const float w1 = slope_weight<decltype(power)::value>(u1, exponent);
        sums.support[r] += (u0 > 0 ? 1.0F : 0.0F) + (u1 > 0 ? 1.0F : 0.0F);
        sums.slope[r] += w0 + w1;
        sums.mass[r] = fmaf(w0, u0, fmaf(w1, u1, sums.mass[r]));
        p[n][r] = Element<T>::pack(w0 * u0, w1 * u1);
        w[n][r] = Element<T>::pack(w0, w1);
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
  }
}

/// Replaces values that are not finite by zero and marks the rows that give them weight. The block meets twice.
template <typename T, int columns>
__device__ void mend_values(const Scores<1>& z, char* values, OutputRows& state) {
  __shared__ bool broken[kTile];
  __syncthreads();
  if (threadIdx.x < kTile) {
    T* row = reinterpret_cast<T*>(values + threadIdx.x * Tile<T, columns>::kStride);
    bool any = false;
    for (int c = 0; c < columns; ++c) {
      if (fabsf(static_cast<float>(row[c])) < kInfinity) continue;
      any = true;
      row[c] = T(0.0F);
    }
    broken[threadIdx.x] = any;
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (broken[element_column(n, e)] && z[0][n][e] > state.taken_at[e >> 1]) state.broken[e >> 1] = true;
}

/// One pass over the candidate tiles for the output columns of `chunk`.
template <typename T, int head_dim, typename Query>
__device__ void output_pass(const OutputBlock<T, head_dim>& block, const Query& query, int chunk, OutputRows& state,
                            RowSums& sums, OutputAccumulators<Output<T, head_dim>::kChunk>& o) {
  using Layout = Output<T, head_dim>;
  const int words = block.launch.params.shape.mask_words();
#pragma unroll
  for (int n = 0; n < Layout::kChunk / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) o.p[n][e] = o.w[n][e] = 0;
  int current = next_set(block.candidates(), words, 0), stage = 0;
  if (current >= 0) block.load_stage(current, chunk, 0);
  while (current >= 0) {
    wait_copies<0>();
    __syncthreads();
    const int next = next_set(block.candidates(), words, current + 1);
    if (Layout::kStages == 2 && next >= 0) block.load_stage(next, chunk, 1 - stage);
    const int at = Layout::kStageAt + stage * Layout::kStageBytes;
    const PairRule rule = block.rule(current);
    Scores<1> s;
    multiply_rows<T, head_dim, 1>(s, query, block.address(at));
    to_z<false>(s, rule, block.launch.z_scale, block.warp_row());
    float top[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      top[0] = fmaxf(top[0], fmaxf(s[0][n][0], s[0][n][1]));
      top[1] = fmaxf(top[1], fmaxf(s[0][n][2], s[0][n][3]));
    }
    const bool active = __any_sync(0xFFFFFFFFU, top[0] > state.lower[0] || top[1] > state.lower[1]);
    if (active && threadIdx.x % 32 == 0) atomicOr(block.final_mask() + current / 32, 1U << (current % 32));
    if (block.values_broken(current))
      mend_values<T, Layout::kChunk>(s, block.shared + at + Layout::Rows::kBytes, state);
    if (active) {
      add_output<T, Layout::kChunk>(s, state, block.launch.exponent, block.address(at + Layout::Rows::kBytes), sums,
                                    o);
    }
    if (Layout::kStages == 1) {
      __syncthreads();
      if (next >= 0) block.load_stage(next, chunk, 0);
    } else {
      stage = 1 - stage;
    }
    current = next;
  }
  __syncthreads();
}

/// Distance from the threshold where the sums were taken to the root; r = 2: that of the quadratic.
__device__ inline float root_distance(float support, float slope, float mass, float exponent) {
  if (exponent != 2.0F) return (mass - 1) / (exponent * slope);
  return (mass - 1) / (slope + sqrtf(fmaxf(slope * slope - support * (mass - 1), 0)));
}

/// Closes the sums over the quad; moves taken_at where another pass is needed. True if one is.
struct Outcome {
  float distance[2] = {0, 0};  ///< from taken_at to the threshold
  bool again = false;
};
__device__ inline Outcome judge(OutputRows& state, RowSums& sums, float exponent, bool last_try) {
  const float tolerance = exponent == 2.0F || exponent == 1.0F ? kMassTolerance : kGeneralMassTolerance;
  Outcome outcome;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sums.support[r] = quad_sum(sums.support[r]);
    sums.slope[r] = quad_sum(sums.slope[r]);
    sums.mass[r] = quad_sum(sums.mass[r]);
    if (!(state.taken_at[r] < kInfinity) || state.broken[r]) continue;
    // No score above taken_at: it was rounded up to the largest one. The bound lies below.
    const float d = sums.slope[r] > 0 ? root_distance(sums.support[r], sums.slope[r], sums.mass[r], exponent)
                                      : state.lower[r] - state.taken_at[r];
    outcome.distance[r] = d;
    outcome.again |= fabsf(sums.mass[r] - 1) > tolerance ||
                     (exponent == 2.0F && sums.support[r] * d * d > kCurvatureTolerance);
  }
  outcome.again = __syncthreads_or(outcome.again && !last_try);
  if (!outcome.again) return outcome;
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (state.taken_at[r] < kInfinity)
      state.taken_at[r] = fmaxf(state.taken_at[r] + outcome.distance[r], state.lower[r]);
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
    T* mean = p.mean_value == nullptr ? nullptr
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

/// tau, the sum of w at it, the tile mask and the statistics of the row tile.
template <typename T, int head_dim>
__device__ void write_rows(const OutputBlock<T, head_dim>& block, const OutputRows& state, const RowSums& sums,
                           const Outcome& outcome, int passes) {
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
  const int words = p.shape.mask_words();
  int active = 0;
  for (int word = threadIdx.x; word < words; word += kThreads) {
    p.tile_mask[block.place.mask_at + word] = block.final_mask()[word];
    active += __popc(block.final_mask()[word]);
  }
  if (p.statistics == nullptr) return;
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
  if (place.rows == 0) return;
  const OutputBlock<T, head_dim> block{launch, place, shared};
  const int words = p.shape.mask_words();
  for (int i = threadIdx.x; i < words; i += kThreads) {
    block.candidates()[i] = p.tile_mask[place.mask_at + i];
    block.final_mask()[i] = 0;
  }
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
    if constexpr (Layout::kInRegisters) return fragments[k];
    else return Layout::Rows::left(block.address(Layout::kQueryAt), block.warp_row(), k * 16);
  };

  RowSums sums;
  Outcome outcome;
  OutputAccumulators<Layout::kChunk> o;
  int passes = 0;
  do {
    sums = RowSums{};
    output_pass<T, head_dim>(block, query, 0, state, sums, o);
    outcome = judge(state, sums, launch.exponent, ++passes == kMaximalPasses);
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
