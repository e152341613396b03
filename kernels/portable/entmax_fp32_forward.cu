// Forward of entmax attention in fp32: one block for 64 rows of one head.
//
// Scores are never stored: every pass over the keys multiplies again, over the tiles that can still matter.
//   1. Scan of all visible tiles: row maxima; whether a score is not finite; and the maxima of 64 subsets of
//   a
//      row's keys (those that are congruent modulo 64). The threshold solved on these 64 numbers is a lower
//      bound of the row's, since leaving keys out lowers it, and mostly a tight one.
//   2. Passes that sum u^(r-1) and u^r, u = [z - max - lo]_+, until no row moves: Newton's steps on the
//   r-norm
//      of u from the left, which are lower bounds again, and for r = 2 and 1 the root with the set {u > 0}
//      held fixed, which is exact as soon as that set is the support. The method is that of
//      src/asplash/ops/entmax_cpu_kernels.cpp; u is taken relative to the row's maximum so that large scores
//      cost no accuracy but their own.
//   3. Output: sum p v and sum w v, and the exact tile mask.
// Every pass narrows the tile mask to the tiles that hold a score above a row's lower bound, less a margin
// for rounding, so the next reads less. A row that is not to have a threshold (no keys, a score that is not
// finite) has NaN for one: no comparison with it is true, and so it takes part in nothing.

#include "entmax_fp32.h"
#include "entmax_fp32_tiles.cuh"

namespace asplash::kernels::portable {
namespace {

using namespace fp32;  // NOLINT

constexpr int kSharedBytes = static_cast<int>(sizeof(float)) * (2 * kChunkSize + 2 * kPairSize);
constexpr int kMostPasses = 100;         // a row takes 2 to 6; each is a lower bound, so any number is safe
constexpr float kStalled = 4 * 1.2e-7F;  // u is at most 1: shorter steps are rounding
// A lower bound may be too high by the rounding of its sums, about epsilon * total / slope <= 1e-6.
// Thresholds go back by kSlack at most, tiles stay in the mask up to margin() > kSlack below.
constexpr float kSlack = 5e-6F;

/// Also covers the rounding of tau = maximum + threshold, the backward's threshold.
__device__ float margin(float maximum) { return 2 * kSlack + 2.4e-7F * fabsf(maximum); }

/// Sum of many small numbers (Kahan): keeps long rows exact to a few units in the last place.
struct ExactSum {
  float sum = 0, excess = 0;

  __device__ void add(float x) {
    const float y = __fsub_rn(x, excess);
    const float next = __fadd_rn(sum, y);
    excess = __fsub_rn(__fsub_rn(next, sum), y);
    sum = next;
  }
  __device__ double value() const { return static_cast<double>(sum) - static_cast<double>(excess); }
};

/// Sums over {u > 0} of a row.
struct RowSums {
  int count = 0;
  ExactSum slope, total;  // of u^(r-1) and u^r
  float smallest = kInfinity;
};

/// Newton's step on the r-norm of u; at or left of the root.
template <class T>
__device__ T newton_step(T total, T slope, float exponent) {
  if (exponent == 2) return (total - sqrt(total)) / slope;
  if (exponent == 1) return (total - 1) / slope;
  return (total - static_cast<T>(powf(static_cast<float>(total), 1 - 1 / exponent))) / slope;
}

/// Step to the root with the set held fixed; -infinity where there is none or no closed form.
__device__ double closed_form_step(int count, double slope, double total, float exponent) {
  if (exponent == 1) return (total - 1) / count;
  const double discriminant = slope * slope - count * (total - 1);
  if (exponent != 2 || !(discriminant >= 0)) return -static_cast<double>(kInfinity);
  return (total - 1) / (slope + sqrt(discriminant));
}

/// A lower bound, relative to the maximum, from the largest scores of the row's 64 subsets.
__device__ float starting_threshold(const float (&largest)[kOwn], float maximum, float exponent) {
  float lo = -1;
  for (int step = 0; step < 6; ++step) {
    float slope = 0, total = 0;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const float u = (largest[j] - maximum) - lo;
      const float w = slope_weight(u, exponent);
      slope += w;
      total += w > 0 ? w * u : 0.0F;
    }
    lo += newton_step(add_row(total), add_row(slope), exponent);
  }
  return fmaxf(lo - kSlack, -1.0F);
}

enum class Progress { newton, correct, final };

/// Moves a row's threshold (relative to its maximum) by what the sums at it say.
__device__ Progress advance(const RowSums& sums, float exponent, Progress progress, float& threshold) {
  const int count = add_row(sums.count);
  const double slope = add_row(sums.slope.value()), total = add_row(sums.total.value());
  const float smallest = combine_row(sums.smallest, [](float a, float b) { return fminf(a, b); });
  if (progress == Progress::final) return progress;
  const double step = newton_step(total, slope, exponent);
  if (progress == Progress::correct) {
    threshold += fmaxf(static_cast<float>(step), -kSlack);
    return Progress::final;
  }
  const double fixed_set = closed_form_step(count, slope, total, exponent);
  const bool stable = fixed_set > -1 && fixed_set < smallest;
  if (!stable && step > kStalled) {
    threshold += static_cast<float>(step);
    return Progress::newton;
  }
  threshold += fmaxf(static_cast<float>(fixed_set > -1 ? fixed_set : step), -kSlack);
  // Rounding of sums far from the root moved it: one step from the root itself mends that.
  return total > 2 ? Progress::correct : Progress::final;
}

/// A block's rows, and the keys that they see.
struct RowTile {
  const EntmaxAttentionParams& params;
  Document document;
  int batch, head, kv_head;
  int first_row;  // of the document
  Scores scores;
  TokenTile query;
  uint32_t* mask;
  int visible_tiles;
  float *row_chunk, *column_chunk;  // shared memory

  __device__ TokenTile keys_of(const AttentionTensor& tensor, int first_key) const {
    return token_tile(tensor, batch, kv_head, document.k_begin, document.k_length, first_key);
  }
};

/// State of a thread's rows, the same in all threads of a row. maximum + threshold is tau.
struct Rows {
  int visible[kOwn];  // keys
  float maximum[kOwn];
  float threshold[kOwn];
  unsigned passes = 0;  // of thresholds; byte i is row i's
};

/// The scores in place of the products, -infinity where a row does not see the key. Bit i of the result: row
/// i sees one that is not finite.
__device__ unsigned score_tile(const RowTile& t, const Rows& rows, int first_key, Tile& z) {
  unsigned broken = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int key = first_key + own_column() + kLanes * j;
      const float score = t.scores(z[i][j], t.first_row + own_row() + i, key);
      const bool seen = key < rows.visible[i];
      broken |= static_cast<unsigned>(seen && !(fabsf(score) < kInfinity)) << i;
      z[i][j] = seen ? score : -kInfinity;
    }
  }
  return broken;
}

/// Calls visit(first key, products) for every tile in the mask, and keeps those for which a thread's call
/// returned true.
template <int head_dim, class Visit>
__device__ void narrow_mask(const RowTile& t, Visit visit) {
  for (int word = 0; word * 32 < t.visible_tiles; ++word) {
    const uint32_t before = t.mask[word];
    uint32_t kept = 0;
    for (uint32_t left = before; left != 0; left &= left - 1) {
      const int first_key = (word * 32 + __ffs(static_cast<int>(left)) - 1) * kTile;
      Tile products;
      multiply_tiles<head_dim>(t.query, t.keys_of(t.params.key, first_key), t.row_chunk, t.column_chunk,
                               products);
      if (__syncthreads_or(visit(first_key, products))) kept |= left & (~left + 1);
    }
    if (threadIdx.x == 0 && kept != before) t.mask[word] = kept;
  }
  __syncthreads();
}

/// All visible tiles into the mask.
__device__ void fill_mask(const RowTile& t) {
  for (int word = static_cast<int>(threadIdx.x); word < t.params.shape.mask_words(); word += kThreads) {
    const int tiles = t.visible_tiles - word * 32;
    t.mask[word] = tiles >= 32 ? ~0U : tiles <= 0 ? 0U : (1U << tiles) - 1;
  }
  __syncthreads();
}

/// Row maxima and lower bounds. Bit i of the result: row i sees a score that is not finite.
template <int head_dim>
__device__ unsigned scan(const RowTile& t, float exponent, Rows& rows) {
  Tile largest;  // of keys congruent modulo 64
  unsigned broken = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    rows.maximum[i] = -kInfinity;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) largest[i][j] = -kInfinity;
  }
  narrow_mask<head_dim>(t, [&](int first_key, Tile& z) {
    broken |= score_tile(t, rows, first_key, z);
    bool keep = false;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float own = -kInfinity;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        largest[i][j] = fmaxf(largest[i][j], z[i][j]);
        own = fmaxf(own, z[i][j]);
      }
      rows.maximum[i] = fmaxf(rows.maximum[i], max_row(own));
      keep = keep || own > rows.maximum[i] - 1 - margin(rows.maximum[i]);
    }
    return keep;
  });
  broken = or_row(broken);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    rows.threshold[i] = starting_threshold(largest[i], rows.maximum[i], exponent);
    if ((broken >> i & 1) || rows.visible[i] == 0) rows.threshold[i] = NAN;
  }
  return broken;
}

template <int head_dim>
__device__ void solve(const RowTile& t, float exponent, Rows& rows) {
  Progress progress[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    progress[i] = isnan(rows.threshold[i]) ? Progress::final : Progress::newton;
  }
  for (int pass = 0; pass < kMostPasses; ++pass) {
    bool moving = false;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      moving = moving || progress[i] != Progress::final;
      rows.passes += static_cast<unsigned>(progress[i] != Progress::final) << 8 * i;
    }
    if (!__syncthreads_or(moving)) break;
    RowSums sums[kOwn];
    narrow_mask<head_dim>(t, [&](int first_key, Tile& z) {
      score_tile(t, rows, first_key, z);
      bool keep = false;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const float allowed = -margin(rows.maximum[i]);
        float slope = 0, total = 0;
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const float u = (z[i][j] - rows.maximum[i]) - rows.threshold[i];
          keep = keep || u > allowed;
          if (!(u > 0)) continue;
          const float w = slope_weight(u, exponent);
          slope += w;
          total += w * u;
          sums[i].count += 1;
          sums[i].smallest = fminf(sums[i].smallest, u);
        }
        sums[i].slope.add(slope);
        sums[i].total.add(total);
      }
      return keep;
    });
#pragma unroll
    for (int i = 0; i < kOwn; ++i) progress[i] = advance(sums[i], exponent, progress[i], rows.threshold[i]);
  }
}

/// Counts in shared memory, then once per block in global memory: integers, so that the order is free.
__device__ void add_statistics(const RowTile& t, const Rows& rows, int support) {
  __shared__ int counters[EntmaxStatistics::kCounters];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < EntmaxStatistics::kCounters) counters[thread] = 0;
  __syncthreads();
  for (int word = thread; word * 32 < t.visible_tiles; word += kThreads) {
    atomicAdd(counters + EntmaxStatistics::kZeroTiles, -__popc(t.mask[word]));
  }
  atomicAdd(counters + EntmaxStatistics::kSupport, support);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (own_column() != 0 || rows.visible[i] == 0) continue;
    const int passes = static_cast<int>(rows.passes >> 8 * i & 0xFF);
    atomicAdd(counters + EntmaxStatistics::kRows, 1);
    atomicAdd(counters + EntmaxStatistics::kPasses + min(max(passes, 1), 4) - 1, 1);
  }
  if (thread == 0) {
    atomicAdd(counters + EntmaxStatistics::kZeroTiles, t.visible_tiles);
    atomicAdd(counters + EntmaxStatistics::kTiles, t.visible_tiles);
  }
  __syncthreads();
  if (thread < EntmaxStatistics::kCounters && counters[thread] != 0) {
    atomicAdd(t.params.statistics + thread, static_cast<unsigned long long>(counters[thread]));
  }
}

template <int head_dim>
__device__ void write_output(const RowTile& t, float exponent, const Rows& rows, unsigned broken,
                             float* shared) {
  const EntmaxAttentionParams& p = t.params;
  float* const p_tile = shared;
  float* const w_tile = shared + kPairSize;
  __shared__ bool broken_value[kTile];
  RowSum<head_dim> out, mean;
  clear<head_dim>(out);
  clear<head_dim>(mean);
  ExactSum weight_sum[kOwn];
  int support = 0;
  narrow_mask<head_dim>(t, [&](int first_key, Tile& z) {
    score_tile(t, rows, first_key, z);
    bool keep = false;
    unsigned positive = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const float u = (z[i][j] - rows.maximum[i]) - rows.threshold[i];
        // The second comparison is the backward's.
        keep = keep || u > 0 || z[i][j] > rows.maximum[i] + rows.threshold[i];
        const float w = slope_weight(u, exponent);
        const int at = (own_row() + i) * kPairStride + own_column() + kLanes * j;
        w_tile[at] = w;
        p_tile[at] = w > 0 ? w * u : 0.0F;
        sum += w;
        support += u > 0;
        positive |= static_cast<unsigned>(u > 0) << (kOwn * i + j);
      }
      weight_sum[i].add(sum);
    }
    const TokenTile value = t.keys_of(p.value, first_key);
    unsigned broken_own = 0;
#pragma unroll
    for (int c = 0; c < head_dim / kChunk; ++c) {
      __syncthreads();
      broken_own |= load_chunk<Take::finite>(t.column_chunk, value, c * kChunk);
      __syncthreads();
      add_product(p_tile, t.column_chunk, out[c]);
      add_product(w_tile, t.column_chunk, mean[c]);
    }
    if (__syncthreads_or(broken_own != 0)) {
      const unsigned in_warp[2] = {__ballot_sync(~0U, broken_own & 1), __ballot_sync(~0U, broken_own & 2)};
      if (threadIdx.x % 8 == 0) {  // eight threads loaded a token
        for (int i = 0; i < 2; ++i) {
          broken_value[threadIdx.x / 8 + 32 * i] = (in_warp[i] >> threadIdx.x % 32 & 0xFF) != 0;
        }
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (!broken_value[own_column() + kLanes * j]) continue;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) broken |= (positive >> (kOwn * i + j) & 1) << i;
      }
    }
    return keep;
  });
  broken = or_row(broken);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const float weights = static_cast<float>(add_row(weight_sum[i].value()));
    const int row = t.first_row + own_row() + i;
    if (row >= t.document.q_length) continue;
    const int token = t.document.q_begin + row;
    const int64_t index = row_index(p.shape, t.batch, t.head, token);
    const bool is_broken = broken >> i & 1, empty = rows.visible[i] == 0;
    store_row<head_dim>(token_pointer<float>(p.out, t.batch, t.head, token), out, i, is_broken ? NAN : 1.0F);
    if (p.mean_value != nullptr) {
      store_row<head_dim>(static_cast<float*>(p.mean_value) + index * head_dim, mean, i,
                          is_broken ? NAN
                          : empty   ? 1.0F
                                    : 1 / weights);
    }
    if (own_column() != 0) continue;
    p.tau[index] = is_broken ? NAN : empty ? kInfinity : rows.maximum[i] + rows.threshold[i];
    if (p.weight_sum != nullptr) p.weight_sum[index] = is_broken ? NAN : weights;
  }
  if (p.statistics != nullptr) add_statistics(t, rows, support);
}

template <int head_dim>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const Launch launch) {
  extern __shared__ float4 shared_memory[];
  auto* const shared = reinterpret_cast<float*>(shared_memory);
  const EntmaxAttentionParams& p = launch.params;
  // The last rows of a causal head have the most keys: they start first.
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int kv_head = head / (p.shape.heads / p.shape.kv_heads);
  const Document d = document_with_tile(launch, launch.row_tile_begin, tile);
  const int first_row = (tile - d.row_tile_begin) * kTile;
  const bool exists = first_row < d.q_length;
  const int visible_keys = exists ? d.visible_keys(p.causal, min(first_row + kTile, d.q_length)) : 0;
  const RowTile t = {p,
                     d,
                     batch,
                     head,
                     kv_head,
                     first_row,
                     scores_of(launch, d, head),
                     token_tile(p.query, batch, head, d.q_begin, d.q_length, first_row),
                     mask_of(p, batch, head, tile),
                     (visible_keys + kTile - 1) / kTile,
                     shared,
                     shared + kChunkSize};
  fill_mask(t);
  if (!exists) return;
  Rows rows;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) rows.visible[i] = t.scores.visible_keys(first_row + own_row() + i);
  const unsigned broken = scan<head_dim>(t, launch.exponent, rows);
  solve<head_dim>(t, launch.exponent, rows);
  write_output<head_dim>(t, launch.exponent, rows, broken, shared + 2 * kChunkSize);
}

}  // namespace

cudaError_t entmax_forward_fp32(const Launch& launch, cudaStream_t stream) {
  const EntmaxAttentionShape& s = launch.params.shape;
  if (s.q_tokens == 0 || s.heads == 0 || s.batch == 0) return cudaSuccess;
  return for_head_dim(s.head_dim, [&](auto head_dim) {
    return launch_tiles(forward_kernel<decltype(head_dim)::value>, launch, s.row_tiles(), s.heads,
                        kSharedBytes, stream);
  });
}

int entmax_fp32_shared_bytes(const EntmaxAttentionShape& /*shape*/) { return kSharedBytes; }

}  // namespace asplash::kernels::portable
