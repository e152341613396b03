#pragma once

#include <new>

#include "portable/entmax_histogram.cuh"
#include "portable/entmax_scan_order.cuh"

/// Scan: the one product of all queries with all keys. For every row it leaves a lower bound of its
/// threshold, an estimate of it (in tau), and for every row tile the key tiles that can hold a positive
/// weight (in tile_mask).
///
/// A block takes 128 rows (64 if heads are wide) through the key tiles, near ones and the first (a common
/// sink) first. Per score it costs one maximum; only scores above the row's running lower bound go into the
/// row's histogram, and only tiles that hold one become candidates. The bound begins at max - 1 and is solved
/// from the histogram again after 1, 2, 4, 8, ... half tiles that counted: by the subset property the
/// threshold of what was seen so far bounds that of the row. With position-biased (ALiBi) heads, |q| max|k|
/// and the bound prove all keys beyond some distance zero: the walk ends there, without a product.
///
/// Warps own 16 rows of each of the block's row tiles, so that all have the same share of an active one; but
/// for the keys in shared memory they share nothing.
///
/// Story, for 16k tokens and 16 heads of 128 on an H200 (0.55 TFLOP; mma.sync reaches about 630 TFLOP/s),
/// dense and with 10 % of the tiles active: (1) 64 keys a step, each find counted in a branch, maxima
/// tracked: 5.8 and 3.1 ms. 700 to 1500 instructions a warp and tile, most of them waiting for each other:
/// two warps a scheduler. (2) 32 keys a step at 168 registers, so three blocks a multiprocessor; lanes first
/// append finds to a list of their own, three instructions a score and no branch: 3.8 and 2.5 ms. Counters
/// said: every second counting step raised some row's maximum, 400 instructions. (3) mbarriers instead of
/// __syncthreads, so that warps may drift by two steps: 4.2 and 2.7 ms. Undone: two waits a step cost more
/// than the drift saves. (4) The window hangs on the lower bound, not on the maximum, and so hardly ever
/// moves between two solutions: 3.3 and 2.2 ms. A list of finds a row, so that chains of additions do not
/// wait for each other, and a walk down the histogram by batches of eight bins: 3.0 and 2.1 ms. A quarter of
/// the latter was waiting at the barrier for the warps with the active row tile. (5) So each warp takes rows
/// of both row tiles: 3.0 and 2.0 ms. (6) Bins with means (entmax_histogram.cuh): as fast, five times as
/// accurate. Tried and left: eight warps of 16 rows at 128 registers, twice as many at a time: 3.1 and 2.2
/// ms. Each key fragment then serves one product instead of two, and shared memory is the limit.
namespace asplash::kernels::portable {

template <typename T, int head_dim>
struct Scan {
  static constexpr int kRowTiles = head_dim <= 128 ? 2 : 1;  ///< a warp's 16 rows of each share key fragments
  static constexpr int kBands = kRowTiles;
  static constexpr int kWarpRows = 16 * kBands;
  static constexpr int kRows = kRowTiles * kTile;
  static constexpr int kStepGroups = 4;  ///< of 8 keys
  static constexpr int kStepKeys = kStepGroups * 8;
  static constexpr int kFinds = kStepGroups * 2;         ///< at most, of a lane in a row and step
  static constexpr bool kInRegisters = head_dim <= 128;  ///< the queries
  static constexpr int kStages = kInRegisters ? 2 : 1;
  using Rows = Tile<T, head_dim>;

  /// Queries lie where keys will, if they move to registers.
  static constexpr int kQueryAt = 0;
  static constexpr int kKeyAt = kInRegisters ? 0 : kRowTiles * Rows::kBytes;
  static constexpr int kHistogramAt = kKeyAt + kStages * Rows::kBytes;
  static constexpr int kReachAt = kHistogramAt + kRows * kHistogramStride * 4;
  static constexpr int kFindsAt = kReachAt + kRows * 4;
  static constexpr int kCandidatesAt = kFindsAt + kThreads * 2 * kBands * kFinds * 4;
  static int shared_bytes(int tile_words) { return kCandidatesAt + kRowTiles * tile_words * 4; }
  static constexpr int kBlocks = head_dim <= 32    ? 4
                                 : head_dim == 96  ? 2
                                 : head_dim <= 128 ? 3
                                                   : 1;  ///< at a time on a multiprocessor
};

/// A thread's rows: two of each band (lane / 4 and lane / 4 + 8). The four lanes of a quad agree on all but
/// broken.
template <int rows>
struct ScanRows {
  float lower[rows];        ///< bound of the threshold
  float anchor[rows];       ///< of the histogram
  unsigned int broken = 0;  ///< bit r: a score is not finite
};

template <typename T, int head_dim>
struct ScanBlock {
  using Layout = Scan<T, head_dim>;
  static constexpr int kThreadRows = 2 * Layout::kBands;
  using Rows = ScanRows<kThreadRows>;

  const Launch& launch;
  const RowPlace& place;
  const HistogramFormat format;
  char* shared;
  const T* keys;     ///< the document's first
  int seen_by_all;   ///< leading keys that all rows of the warp see
  int seen_by_some;  ///< leading keys that some row of the warp may see
  bool plain;        ///< z is a positive multiple of the product, where all pairs exist
  bool careful;      ///< a score may not be finite

  __device__ uint32_t address(int offset) const { return shared_address(shared + offset); }
  __device__ uint32_t* histogram(int row) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kHistogramAt) + row * kHistogramStride;
  }
  /// |z_scale| |q| max |k| of a row: no product's share of z is larger.
  __device__ float& reach(int row) const { return reinterpret_cast<float*>(shared + Layout::kReachAt)[row]; }
  /// This lane's list of its first row; entries are 32 lanes apart, its rows' lists kFinds entries.
  __device__ float* finds() const {
    return reinterpret_cast<float*>(shared + Layout::kFindsAt) +
           threadIdx.x / 32 * 32 * kThreadRows * Layout::kFinds + threadIdx.x % 32;
  }
  __device__ uint32_t* candidates(int row_tile) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kCandidatesAt) +
           row_tile * launch.params.shape.tile_words();
  }
  /// The warp's first row of the first row tile.
  __device__ int warp_row() const { return threadIdx.x / 32 * 16; }
  __device__ int local_row(int r) const {
    return warp_row() + r / 2 * kTile + r % 2 * 8 + threadIdx.x % 32 / 4;
  }
  __device__ PairRule rule(int first_key) const {
    return {launch.params.causal, place.row0 + place.document.offset(), first_key, place.document.k_length,
            place.slope};
  }
  __device__ bool row_exists(int r) const {
    const int row = local_row(r);
    return row < place.rows && (!launch.params.causal || place.row0 + row + place.document.offset() >= 0) &&
           place.key_tiles > 0;
  }
  __device__ void load_keys(int key_tile, int stage) const {
    const int64_t stride = launch.params.key.token_stride;
    Layout::Rows::load(address(Layout::kKeyAt) + stage * Layout::Rows::kBytes,
                       keys + key_tile * (kTile * stride), stride,
                       place.document.k_length - key_tile * kTile);
    commit_copies();
  }
};

/// Marks rows that see a score which is not finite. Only runs where such a score is possible.
template <typename Block, int bands, int groups>
__device__ inline void find_broken(const Block& block, const Scores<bands, groups>& s, const PairRule& rule,
                                   typename Block::Rows& state) {
#pragma unroll
  for (int band = 0; band < bands; ++band) {
#pragma unroll
    for (int n = 0; n < groups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool finite = fabsf(s[band][n][e] * block.launch.z_scale) < kInfinity;
        const int row = block.warp_row() + band * kTile + element_row(e);
        if (!finite && rule.visible(row, element_column(n, e))) state.broken |= 1U << (band * 2 + (e >> 1));
      }
    }
  }
}

/// Moves the windows of rows up to which a score of the step lies above them.
template <typename Block>
__device__ inline void raise_windows(const Block& block, const float (&top)[Block::kThreadRows], float factor,
                                     typename Block::Rows& state) {
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    const float maximum = quad_max(top[r] * factor);
    if (maximum > state.lower[r] + 1) {
      // The window's top is always lower + 1 as rounded, so that bins are cleared up to where it next starts.
      const float lower = maximum - 1;
      state.anchor[r] = move_window(block.histogram(block.local_row(r)), state.lower[r] + 1, lower + 1,
                                    state.anchor[r], threadIdx.x % 4, 4);
      state.lower[r] = lower;
    }
  }
  __syncwarp();
}

/// If x > bound: *at = x, at += 128 bytes. Predicated: a branch would cost more than both.
__device__ inline void append_above(uint32_t& at, float x, float bound) {
  asm volatile(
      "{\n"
      ".reg .pred found;\n"
      "setp.gt.f32 found, %1, %2;\n"
      "@found st.shared.f32 [%0], %1;\n"
      "@found add.u32 %0, %0, 128;\n"
      "}\n"
      : "+r"(at)
      : "f"(x), "f"(bound)
      : "memory");
}

/// Counts the scores of `count` bands above their rows' bounds. Rows have lists of their own: chains of
/// additions that do not wait for each other.
template <int first_band, int count, typename Block, int bands, int groups>
__device__ inline void count_bands(const Block& block, const Scores<bands, groups>& s, float factor,
                                   const typename Block::Rows& state) {
  constexpr int kRows = 2 * count, kListBytes = Block::Layout::kFinds * 128;
  const float* finds = block.finds();
  const uint32_t begin = shared_address(finds);
  const float inverse = 1 / factor;
  uint32_t at[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) at[r] = begin + r * kListBytes;
#pragma unroll
  for (int n = 0; n < groups; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        append_above(at[r], s[first_band + r / 2][n][r % 2 * 2 + c],
                     state.lower[2 * first_band + r] * inverse);
      }
  uint32_t longest = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) longest = max(longest, at[r] - begin - r * kListBytes);
  longest = __reduce_max_sync(0xFFFFFFFFU, longest);
#pragma unroll 1
  for (uint32_t find = 0; find < longest; find += 128) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      count_score(shared_address(block.histogram(block.local_row(2 * first_band + r))),
                  finds[find / 4 + r * kListBytes / 4], factor, state.anchor[2 * first_band + r],
                  block.format, begin + r * kListBytes + find < at[r]);
    }
  }
  __syncwarp();  // counts before slots are cleared again
}

/// Scores of the warp's rows with 32 keys. Returns (as bits) the bands of which any went into a histogram.
template <typename Block, typename Query>
__device__ inline unsigned int scan_step(const Block& block, int first_key, uint32_t keys, const Query& query,
                                         typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  constexpr int kRows = Block::kThreadRows, kGroups = Layout::kStepGroups;
  Scores<Layout::kBands, kGroups> s;
  query.multiply(s, keys);
  // Plain steps keep their products: z is a multiple of them, and so is the largest.
  float factor = block.launch.z_scale;
  if (block.careful) find_broken(block, s, block.rule(first_key), state);
  if (first_key + Layout::kStepKeys > block.seen_by_all) {
    to_z<false, true, kTile>(s, block.rule(first_key), factor, block.warp_row());
    factor = 1;
  } else if (!block.plain) {
    to_z<false, false, kTile>(s, block.rule(first_key), factor, block.warp_row());
    factor = 1;
  }
  float top[kRows];
  bool relevant[Layout::kBands] = {}, above = false;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    top[r] = -kInfinity;
#pragma unroll
    for (int n = 0; n < kGroups; ++n)
      top[r] = fmaxf(top[r], fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
    const float excess = fmaf(top[r], factor, -state.lower[r]);
    relevant[r / 2] |= excess > 0;
    above |= excess > 1;
  }
  unsigned int found = 0;
#pragma unroll
  for (int band = 0; band < Layout::kBands; ++band)
    found |= __any_sync(0xFFFFFFFFU, relevant[band]) ? 1U << band : 0;
  if (found == 0) return 0;
  if (__any_sync(0xFFFFFFFFU, above)) raise_windows(block, top, factor, state);
  if constexpr (Layout::kBands == 1) {
    count_bands<0, 1>(block, s, factor, state);
  } else {
    if (found == 3)
      count_bands<0, 2>(block, s, factor, state);
    else if (found == 1)
      count_bands<0, 1>(block, s, factor, state);
    else
      count_bands<1, 1>(block, s, factor, state);
  }
  return found;
}

/// Every row's bounds from its histogram: lane i of a warp solves row i.
template <bool final, typename Block>
__device__ void solve_rows(const Block& block, typename Block::Rows& state, float* estimates) {
  constexpr int kRows = Block::kThreadRows;
  const int lane = threadIdx.x % 32, own = lane % Block::Layout::kWarpRows, source = own % 8 * 4;
  float lower = kInfinity, anchor = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float other_lower = __shfl_sync(0xFFFFFFFFU, state.lower[r], source);
    const float other_anchor = __shfl_sync(0xFFFFFFFFU, state.anchor[r], source);
    if (own / 8 != r) continue;
    lower = other_lower;
    anchor = other_anchor;
  }
  ThresholdBounds bounds{lower, kInfinity, 0};
  const int row = block.warp_row() + own / 16 * kTile + own % 16;
  const bool has_bound = fabsf(lower) < kInfinity;
  if (has_bound) {
    bounds =
        solve_histogram<final>(block.histogram(row), lower + 1, anchor, block.launch.exponent, block.format);
    bounds.lower = fmaxf(bounds.lower, lower);
    bounds.estimate = fmaxf(bounds.estimate, bounds.lower);
  }
  __syncwarp();  // Lanes beyond the warp's rows repeat others' work: they read what is cleared next.
  if (final) {
    if (lane == own && row < block.place.rows) block.launch.crowd[block.place.row_index + row] = bounds.crowd;
  } else if (has_bound && lane == own) {
    move_window(block.histogram(row), lower + 1, bounds.lower + 1, anchor, 0, 1);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    state.lower[r] = __shfl_sync(0xFFFFFFFFU, bounds.lower, r * 8 + lane / 4);
    const float estimate = __shfl_sync(0xFFFFFFFFU, bounds.estimate, r * 8 + lane / 4);
    if (final) estimates[r] = estimate;
  }
  __syncwarp();
}

template <typename Block, typename Query>
__device__ void scan(const Block& block, const Query& query, typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  constexpr int kStages = Layout::kStages;
  const int tiles = block.place.key_tiles;
  const int centre =
      min(max((block.place.row0 + block.place.document.offset() + kTile / 2) / kTile, 0), tiles - 1);
  ScanOrder order(tiles, block.launch.params.causal ? tiles - 1 : centre, block.place.slope == 0);
  int current = order.next(), stage = 0;
  int counted = 0;  // half tiles of this warp that counted
  block.load_keys(current, 0);
  for (int visit = 1; current >= 0; ++visit) {
    wait_copies<0>();
    __syncthreads();
    const int next = order.next();
    if (kStages == 2 && next >= 0) block.load_keys(next, 1 - stage);
    const uint32_t keys = block.address(Layout::kKeyAt) + stage * Layout::Rows::kBytes;
    unsigned int found = 0;
#pragma unroll 1
    for (int key = 0; key < kTile; key += Layout::kStepKeys) {
      const int first_key = current * kTile + key;
      if (first_key >= block.seen_by_some) break;
      const unsigned int bands =
          scan_step(block, first_key, keys + key * Layout::Rows::kStride, query, state);
      if (bands == 0) continue;
      found |= bands;
      ++counted;
      if ((counted & (counted - 1)) == 0) solve_rows<false>(block, state, nullptr);
    }
    if (threadIdx.x % 32 < Layout::kRowTiles && (found >> threadIdx.x % 32 & 1) != 0)
      atomicOr(block.candidates(threadIdx.x % 32) + current / 32, 1U << (current % 32));
    if (block.place.slope > 0 && (visit <= 4 || (visit & (visit - 1)) == 0))
      order.window = window_of(block, state);
    if constexpr (kStages == 1) {
      __syncthreads();
      if (next >= 0) block.load_keys(next, 0);
    } else {
      stage = 1 - stage;
    }
    current = next;
  }
  wait_copies<0>();
  __syncthreads();
}

/// The warp's queries: in registers, or read from shared memory with every product.
template <typename T, int head_dim>
struct ScanQuery {
  using Layout = Scan<T, head_dim>;
  Fragment fragments[Layout::kInRegisters ? Layout::kBands : 1][Layout::kInRegisters ? head_dim / 16 : 1];
  uint32_t tile;
  int warp_row;

  __device__ ScanQuery(uint32_t query_tile, int first_row) : tile(query_tile), warp_row(first_row) {
    if constexpr (Layout::kInRegisters) {
#pragma unroll
      for (int band = 0; band < Layout::kBands; ++band)
#pragma unroll
        for (int k = 0; k < head_dim / 16; ++k)
          fragments[band][k] = Layout::Rows::left(tile, warp_row + band * kTile, k * 16);
    }
  }
  __device__ void multiply(Scores<Layout::kBands, Layout::kStepGroups>& s, uint32_t keys) const {
    multiply_rows<T, head_dim>(
        s,
        [&](int band, int k) {
          if constexpr (Layout::kInRegisters)
            return fragments[band][k];
          else
            return Layout::Rows::left(tile, warp_row + band * kTile, k * 16);
        },
        keys);
  }
};

/// Loads the queries, and how far each row's scores can reach.
template <typename Block, typename T, int head_dim>
__device__ void load_queries(Block& block, typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  const AttentionTensor& query = block.launch.params.query;
  const RowPlace& place = block.place;
  Layout::Rows::template load<Layout::kRows>(
      block.address(Layout::kQueryAt),
      token_pointer<T>(query, place.batch, place.head, place.document.q_begin + place.row0),
      query.token_stride, place.rows);
  commit_copies();
  float key_norm = 0;
  for (int tile = threadIdx.x % 32; tile < place.key_tiles; tile += 32)
    key_norm = fmaxf(key_norm, block.launch.key_facts[place.facts_at + tile].key_norm);
  for (int step = 16; step > 0; step /= 2)
    key_norm = fmaxf(key_norm, __shfl_xor_sync(0xFFFFFFFFU, key_norm, step));
  const int words = Layout::kRowTiles * block.launch.params.shape.tile_words();
  for (int i = threadIdx.x; i < words; i += kThreads) block.candidates(0)[i] = 0;
  wait_copies<0>();
  __syncthreads();
  bool careful = false;
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    const uint32_t* row = reinterpret_cast<const uint32_t*>(block.shared + Layout::kQueryAt +
                                                            block.local_row(r) * Layout::Rows::kStride);
    float square = 0;
    for (int i = threadIdx.x % 4; i < head_dim / 2; i += 4) {
      const float2 x = Element<T>::unpack(row[i]);
      square = fmaf(x.x, x.x, fmaf(x.y, x.y, square));
    }
    state.lower[r] = block.row_exists(r) ? -kInfinity : kInfinity;
    const float reach = fabsf(block.launch.z_scale) * sqrtf(quad_sum(square)) * key_norm;
    block.reach(block.local_row(r)) = reach;
    state.anchor[r] = 0;
    careful |= !(reach < 1e37F);
  }
  block.careful = __any_sync(0xFFFFFFFFU, careful);
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kThreads, (Scan<T, head_dim>::kBlocks))
    entmax_scan_kernel(const __grid_constant__ Launch launch) {
  using Block = ScanBlock<T, head_dim>;
  using Layout = typename Block::Layout;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char place_memory[sizeof(RowPlace)];
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    // Causal: the last row tiles see the most keys and go first. With documents the grid counts single row
    // tiles.
    const int step = p.cu_q == nullptr ? Layout::kRowTiles : 1;
    const int row_tile = (p.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * step;
    new (place_memory) RowPlace(launch, row_tile, Layout::kRows, blockIdx.y, blockIdx.z);
  }
  __syncthreads();
  if (place.rows == 0 || place.row0 % Layout::kRows != 0) return;
  Block block{launch,
              place,
              histogram_format(place.document.k_length),
              shared,
              token_pointer<const T>(p.key, place.batch, place.kv_head, place.document.k_begin),
              0,
              0,
              false,
              false};
  const int position = place.row0 + place.document.offset() + block.warp_row();
  block.seen_by_some = place.document.visible_keys(
      p.causal, place.row0 + (Layout::kRowTiles - 1) * kTile + block.warp_row() + 16);
  block.plain = place.slope == 0 && launch.z_scale > 0;
  block.seen_by_all = p.causal ? min(position + 1, place.document.k_length) : place.document.k_length;
  typename Block::Rows state;
  load_queries<Block, T, head_dim>(block, state);
  float estimates[Block::kThreadRows];
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) estimates[r] = kInfinity;
  if (place.key_tiles > 0) {
    const ScanQuery<T, head_dim> query(block.address(Layout::kQueryAt), block.warp_row());
    __syncthreads();
    scan(block, query, state);
    solve_rows<true>(block, state, estimates);
  }
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    // The quad's lanes saw different scores of the row.
    unsigned int broken = state.broken >> r & 1;
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 1);
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 2);
    const int row = block.local_row(r);
    if (threadIdx.x % 4 != 0 || row >= place.rows) continue;
    launch.lower[place.row_index + row] = broken != 0 ? kInfinity : state.lower[r];
    p.tau[place.row_index + row] = broken != 0 ? NAN : block.row_exists(r) ? estimates[r] : kInfinity;
  }
  const int words = p.shape.tile_words();
  for (int tile = 0; tile * kTile < place.rows; ++tile) {
    // No row bits yet: the output pass writes those of the tiles that it looks at.
    for (int i = threadIdx.x; i < p.shape.mask_words(); i += kThreads)
      p.tile_mask[place.mask_at + tile * p.shape.mask_words() + i] =
          i < words ? block.candidates(tile)[i] : 0;
  }
}

}  // namespace asplash::kernels::portable
