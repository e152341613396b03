#pragma once

#include <new>

#include "portable/entmax_histogram.cuh"

/// Scan: the one product of all queries with all keys. For every row it leaves a lower bound of its threshold, an
/// estimate of it (in tau), and for every row tile the key tiles that can hold a positive weight (in tile_mask).
///
/// A block takes 128 rows (64 if heads are wide) through the key tiles, near ones and the first (a common sink)
/// first. Per score it costs one maximum; only scores above the row's running lower bound go into the row's
/// histogram, and only tiles that hold one become candidates. The bound begins at max - 1 and is solved from the
/// histogram again after 4, 16, 32, 64, ... tiles: by the subset property the threshold of what was seen so far
/// bounds that of the row. With position-biased (ALiBi) heads, |q| max|k| and the bound prove all keys beyond some
/// distance zero: the walk ends there, without a product.
///
/// Warps own rows: but for the keys in shared memory they share nothing.
namespace asplash::kernels::portable {

template <typename T, int head_dim>
struct Scan {
  static constexpr int kBands = head_dim <= 128 ? 2 : 1;  ///< of 16 rows a warp: each key fragment serves all
  static constexpr int kWarpRows = 16 * kBands;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kRowTiles = kRows / kTile;
  static constexpr bool kInRegisters = head_dim <= 128;  ///< the queries
  static constexpr int kStages = kInRegisters ? 3 : 1;
  using Rows = Tile<T, head_dim>;

  /// Queries lie where keys will, if they move to registers.
  static constexpr int kQueryAt = 0;
  static constexpr int kKeyAt = kInRegisters ? 0 : kRowTiles * Rows::kBytes;
  static constexpr int kHistogramAt = kKeyAt + kStages * Rows::kBytes;
  static constexpr int kReachAt = kHistogramAt + kRows * kHistogramStride * 4;
  static constexpr int kCandidatesAt = kReachAt + kRows * 4;
  static int shared_bytes(int mask_words) { return kCandidatesAt + kRowTiles * mask_words * 4; }
  static constexpr int kBlocks = head_dim <= 32 ? 3 : head_dim <= 128 ? 2 : 1;  ///< at a time on a multiprocessor
};

/// A thread's rows: two of each band (lane / 4 and lane / 4 + 8). The four lanes of a quad agree.
template <int rows>
struct ScanRows {
  float maximum[rows];
  float lower[rows];  ///< of the threshold
  float anchor[rows];
  bool broken[rows];  ///< a score is not finite
};

template <typename T, int head_dim>
struct ScanBlock {
  using Layout = Scan<T, head_dim>;
  static constexpr int kThreadRows = 2 * Layout::kBands;
  using Rows = ScanRows<kThreadRows>;

  const Launch& launch;
  const RowPlace& place;
  const HistogramFormat& format;
  char* shared;
  bool careful;  ///< a score may not be finite

  __device__ uint32_t address(int offset) const { return shared_address(shared + offset); }
  __device__ uint32_t* histogram(int row) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kHistogramAt) + row * kHistogramStride;
  }
  /// |z_scale| |q| max |k| of a row: no product's share of z is larger.
  __device__ float& reach(int row) const { return reinterpret_cast<float*>(shared + Layout::kReachAt)[row]; }
  __device__ uint32_t* candidates(int row_tile) const {
    return reinterpret_cast<uint32_t*>(shared + Layout::kCandidatesAt) +
           row_tile * launch.params.shape.mask_words();
  }
  __device__ int warp_row() const { return threadIdx.x / 32 * Layout::kWarpRows; }
  __device__ int local_row(int r) const { return warp_row() + r / 2 * 16 + r % 2 * 8 + threadIdx.x % 32 / 4; }
  __device__ PairRule rule(int key_tile) const {
    return {launch.params.causal, place.row0 + place.document.offset(), key_tile * kTile, place.document.k_length,
            place.slope};
  }
  __device__ bool row_exists(int r) const {
    const int row = local_row(r);
    return row < place.rows && (!launch.params.causal || place.row0 + row + place.document.offset() >= 0) &&
           place.key_tiles > 0;
  }
  __device__ float key_norm(int key_tile) const { return launch.key_facts[place.facts_at + key_tile].key_norm; }
  __device__ void load_keys(int key_tile, int stage) const {
    const AttentionTensor& key = launch.params.key;
    Layout::Rows::load(address(Layout::kKeyAt) + stage * Layout::Rows::kBytes,
                       token_pointer<T>(key, place.batch, place.kv_head, place.document.k_begin + key_tile * kTile),
                       key.token_stride, place.document.k_length - key_tile * kTile);
  }
};

/// Marks rows that see a score which is not finite. Only runs where such a score is possible.
template <typename Block>
__device__ inline void find_broken(const Block& block, const Scores<Block::Layout::kBands>& s, const PairRule& rule,
                                   typename Block::Rows& state) {
#pragma unroll
  for (int band = 0; band < Block::Layout::kBands; ++band) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool finite = fabsf(s[band][n][e] * block.launch.z_scale) < kInfinity;
        const int row = block.warp_row() + band * 16 + element_row(e);
        if (!finite && rule.visible(row, element_column(n, e))) state.broken[band * 2 + (e >> 1)] = true;
      }
    }
  }
}

/// One tile of the scan. query: fragments in registers, or unused.
template <typename Block, typename Query>
__device__ void scan_tile(const Block& block, int key_tile, uint32_t keys, const Query& query,
                          typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  constexpr int kRows = Block::kThreadRows;
  const PairRule rule = block.rule(key_tile);
  if (rule.none_visible(block.warp_row() + Layout::kWarpRows - 1)) return;
  Scores<Layout::kBands> s;
  query.multiply(s, keys);
  if (block.careful) find_broken(block, s, rule, state);
  // Plain tiles keep their products: z is a multiple of them, and so is the largest.
  float factor = block.launch.z_scale;
  if (rule.slope != 0 || factor <= 0 || !rule.all_visible(block.warp_row())) {
    to_z<false>(s, rule, factor, block.warp_row());
    factor = 1;
  }
  float top[kRows];
  bool relevant = false;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    top[r] = -kInfinity;
#pragma unroll
    for (int n = 0; n < 8; ++n)
      top[r] = fmaxf(top[r], fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
    top[r] *= factor;
    relevant |= top[r] > state.lower[r];
  }
#ifdef VAR_BASE
  if (__any_sync(0xFFFFFFFFU, relevant)) state.lower[0]+=top[0];
  return;
#endif
  if (!__any_sync(0xFFFFFFFFU, relevant)) return;
  bool counts = false;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float maximum = fmaxf(state.maximum[r], quad_max(top[r]));
    if (maximum > state.maximum[r]) {
      state.anchor[r] = raise_maximum(block.histogram(block.local_row(r)), state.maximum[r], maximum,
                                      state.anchor[r], block.format);
      state.maximum[r] = maximum;
      state.lower[r] = fmaxf(state.lower[r], maximum - 1);
    }
    counts |= top[r] > state.lower[r];
  }
  if (!__any_sync(0xFFFFFFFFU, counts)) return;  // also: slots are cleared before they count
  if (threadIdx.x % 32 == 0) {
    atomicOr(block.candidates(block.warp_row() / kTile) + key_tile / 32, 1U << (key_tile % 32));
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (!(top[r] > state.lower[r])) continue;
    uint32_t* row = block.histogram(block.local_row(r));
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float z = s[r / 2][n][r % 2 * 2 + c] * factor;
        if (z > state.lower[r]) count_score(row, z, state.anchor[r], block.format);
      }
    }
  }
  __syncwarp();  // counts before slots are cleared again
}

/// Every row's bounds from its histogram: lane i of a warp solves row i.
template <typename Block>
__device__ void solve_rows(const Block& block, typename Block::Rows& state, float* estimates) {
  constexpr int kRows = Block::kThreadRows;
  __syncwarp();
  const int lane = threadIdx.x % 32, own = lane % Block::Layout::kWarpRows, source = own % 8 * 4;
  float maximum = 0, anchor = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float other_maximum = __shfl_sync(0xFFFFFFFFU, state.maximum[r], source);
    const float other_anchor = __shfl_sync(0xFFFFFFFFU, state.anchor[r], source);
    if (own / 8 == r) {
      maximum = other_maximum;
      anchor = other_anchor;
    }
  }
  ThresholdBounds bounds{-kInfinity, kInfinity};
  if (fabsf(maximum) < kInfinity) {
    bounds = solve_histogram(block.histogram(block.warp_row() + own), maximum, anchor, block.launch.exponent,
                             block.format);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float lower = __shfl_sync(0xFFFFFFFFU, bounds.lower, r * 8 + lane / 4);
    const float estimate = __shfl_sync(0xFFFFFFFFU, bounds.estimate, r * 8 + lane / 4);
    if (lower > state.lower[r]) state.lower[r] = lower;
    if (estimates) estimates[r] = fmaxf(estimate, state.lower[r]);
  }
  __syncwarp();
}

/// Key tiles [first, last] outside which a head's position bias proves every weight of the block's rows zero.
struct Window {
  int first, last;
};
template <typename Block>
__device__ Window window_of(const Block& block, const typename Block::Rows& state) {
  __shared__ Window shared;
  if (threadIdx.x == 0) shared = {block.place.key_tiles, -1};
  __syncthreads();
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    if (!block.row_exists(r) || state.broken[r]) continue;
    // The slack is far more than the rounding of a product of head_dim terms.
    const float reach = block.reach(block.local_row(r));
    const float slack = 1e-4F * (fabsf(state.lower[r]) + reach) + 1e-4F;
    const float distance = fminf((reach - state.lower[r] + slack) / block.place.slope + 1, 2e9F);
    if (!(distance >= 0)) continue;
    const int64_t position = block.place.row0 + block.local_row(r) + block.place.document.offset();
    const int64_t low = position - static_cast<int64_t>(distance), high = position + static_cast<int64_t>(distance);
    const int64_t keys = block.place.document.k_length;
    atomicMin(&shared.first, static_cast<int>(max(low, int64_t{0}) / kTile));
    atomicMax(&shared.last, static_cast<int>(min(max(high, int64_t{0}), keys) / kTile));
  }
  __syncthreads();
  const Window window = shared;
  __syncthreads();
  return window;
}

/// The order of the scan: `start`, below it, the first tile early, then down; what lies above `start` at the end
/// of it. -1 ends it. (Causal: there is nothing above.)
class ScanOrder {
 public:
  __device__ ScanOrder(int tiles, int start, bool sink_early)
      : window{0, tiles - 1}, start_(start), below_(start), above_(start), sink_due_(sink_early && start > 1),
        floor_(sink_due_ ? 1 : 0) {}

  __device__ int next() {
    if (count_++ == 0) return start_;
    if (sink_due_ && count_ == 3) {
      sink_due_ = false;
      return 0;
    }
    below_ = min(below_ - 1, window.last);
    if (below_ >= max(window.first, floor_)) return below_;
    above_ = max(above_ + 1, window.first);
    return above_ <= window.last ? above_ : -1;
  }

  Window window;

 private:
  int start_, below_, above_;
  bool sink_due_;
  int floor_;
  int count_ = 0;
};

template <typename Block, typename Query>
__device__ void scan(const Block& block, const Query& query, typename Block::Rows& state) {
  constexpr int kStages = Block::Layout::kStages;
  const int tiles = block.place.key_tiles;
  const int centre = min(max((block.place.row0 + block.place.document.offset() + kTile / 2) / kTile, 0), tiles - 1);
  ScanOrder order(tiles, block.launch.params.causal ? tiles - 1 : centre, block.place.slope == 0);
  int queue[kStages];  // tiles on their way, the oldest first
#pragma unroll
  for (int i = 0; i < kStages; ++i) {
    queue[i] = -1;
    if (i + 1 == kStages && kStages > 1) break;
    queue[i] = order.next();
    if (queue[i] >= 0) block.load_keys(queue[i], i);
    commit_copies();
  }
  int stage = 0;
  for (int visit = 1; queue[0] >= 0; ++visit) {
    if constexpr (kStages == 1) {
      wait_copies<0>();
      __syncthreads();
    } else {
      wait_copies<(kStages > 1 ? kStages - 2 : 0)>();
      __syncthreads();
      queue[kStages - 1] = order.next();
      const int free = stage == 0 ? kStages - 1 : stage - 1;
      if (queue[kStages - 1] >= 0) block.load_keys(queue[kStages - 1], free);
      commit_copies();
    }
    scan_tile(block, queue[0], block.address(Block::Layout::kKeyAt) + stage * Block::Layout::Rows::kBytes, query,
              state);
    // Tighter bounds spare counting and, for position-biased heads, tiles.
    const bool power = (visit & (visit - 1)) == 0;
#ifdef VAR_NOSOLVE
    if (false)
#else
    if (visit == 4 || (visit >= 16 && power))
#endif
     solve_rows(block, state, nullptr);
    if (block.place.slope > 0 && (visit <= 4 || power)) order.window = window_of(block, state);
    if constexpr (kStages == 1) {
      __syncthreads();
      queue[0] = order.next();
      if (queue[0] >= 0) block.load_keys(queue[0], 0);
      commit_copies();
    } else {
#pragma unroll
      for (int i = 0; i + 1 < kStages; ++i) queue[i] = queue[i + 1];
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
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
          fragments[band][k] = Layout::Rows::left(tile, warp_row + band * 16, k * 16);
    }
  }
  __device__ void multiply(Scores<Layout::kBands>& s, uint32_t keys) const {
    multiply_rows<T, head_dim, Layout::kBands>(
        s,
        [&](int band, int k) {
          if constexpr (Layout::kInRegisters) return fragments[band][k];
          else return Layout::Rows::left(tile, warp_row + band * 16, k * 16);
        },
        keys);
  }
};

/// Loads the queries, and how far each row's scores can reach.
template <typename Block, typename T, int head_dim>
__device__ void load_queries(Block& block, typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  const AttentionTensor& query = block.launch.params.query;
  Layout::Rows::template load<Layout::kRows>(
      block.address(Layout::kQueryAt),
      token_pointer<T>(query, block.place.batch, block.place.head, block.place.document.q_begin + block.place.row0), query.token_stride,
      block.place.rows);
  commit_copies();
  float key_norm = 0;
  for (int tile = threadIdx.x % 32; tile < block.place.key_tiles; tile += 32)
    key_norm = fmaxf(key_norm, block.key_norm(tile));
  for (int step = 16; step > 0; step /= 2)
    key_norm = fmaxf(key_norm, __shfl_xor_sync(0xFFFFFFFFU, key_norm, step));
  const int words = Layout::kRowTiles * block.launch.params.shape.mask_words();
  for (int i = threadIdx.x; i < words; i += kThreads) block.candidates(0)[i] = 0;
  wait_copies<0>();
  __syncthreads();
  bool careful = false;
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    const uint32_t* row =
        reinterpret_cast<const uint32_t*>(block.shared + Layout::kQueryAt + block.local_row(r) * Layout::Rows::kStride);
    float square = 0;
    for (int i = threadIdx.x % 4; i < head_dim / 2; i += 4) {
      const float2 x = Element<T>::unpack(row[i]);
      square = fmaf(x.x, x.x, fmaf(x.y, x.y, square));
    }
    state.maximum[r] = -kInfinity;
    state.lower[r] = block.row_exists(r) ? -kInfinity : kInfinity;
    state.anchor[r] = 0;
    state.broken[r] = false;
    const float reach = fabsf(block.launch.z_scale) * sqrtf(quad_sum(square)) * key_norm;
    block.reach(block.local_row(r)) = reach;
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
  __shared__ HistogramFormat format;
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    // Causal: the last row tiles see the most keys and go first. With documents the grid counts single row tiles.
    const int step = p.cu_q == nullptr ? Layout::kRowTiles : 1;
    const int row_tile = (p.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * step;
    const RowPlace* made = new (place_memory) RowPlace(launch, row_tile, Layout::kRows, blockIdx.y, blockIdx.z);
    format = histogram_format(made->document.k_length);
  }
  __syncthreads();
  if (place.rows == 0 || place.row0 % Layout::kRows != 0) return;
  Block block{launch, place, format, shared, false};
  typename Block::Rows state;
  load_queries<Block, T, head_dim>(block, state);
  float estimates[Block::kThreadRows];
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) estimates[r] = kInfinity;
  if (place.key_tiles > 0) {
    const ScanQuery<T, head_dim> query(block.address(Layout::kQueryAt), block.warp_row());
    __syncthreads();
    scan(block, query, state);
    solve_rows(block, state, estimates);
  }
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) {
    // The quad's lanes saw different scores of the row.
    int broken = state.broken[r];
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 1);
    broken |= __shfl_xor_sync(0xFFFFFFFFU, broken, 2);
    const int row = block.local_row(r);
    if (threadIdx.x % 4 != 0 || row >= place.rows) continue;
    launch.lower[place.row_index + row] = broken ? kInfinity : state.lower[r];
    p.tau[place.row_index + row] = broken ? NAN : block.row_exists(r) ? estimates[r] : kInfinity;
  }
  const int words = p.shape.mask_words();
  const int tiles = (place.rows + kTile - 1) / kTile;
  for (int i = threadIdx.x; i < tiles * words; i += kThreads)
    p.tile_mask[place.mask_at + i] = block.candidates(0)[i];
}

}  // namespace asplash::kernels::portable
