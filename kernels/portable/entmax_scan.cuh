#pragma once

#include <new>

#include "portable/entmax_scan_finds.cuh"
#include "portable/entmax_scan_order.cuh"

/// Scan: the one product of all queries with all keys. For every row it leaves a lower bound of its
/// threshold, an estimate of it (in tau) and lists of its scores above the bound with their keys
/// (entmax_finds.cuh), and for every row tile the key tiles that can hold a positive weight (in tile_mask).
///
/// A block takes 128 rows (64 if heads are wide, or blocks few) through the key tiles, near ones and the
/// first (a common sink) first. Per score it costs one maximum; only scores above the row's running lower
/// bound go into the row's histogram and list, and only tiles that hold one become candidates. The bound
/// begins at max - 1 and is solved from the histogram again after 1, 2, 4, 8, ... half tiles that counted: by
/// the subset property the threshold of what was seen so far bounds that of the row. With position-biased
/// (ALiBi) heads, |q| max|k| and the bound prove all keys beyond some distance zero: the walk ends there,
/// without a product.
///
/// While there are few keys, half of the scores are above the bound. So the first quarter of the key tiles
/// (an eighth, of many) gives the histogram no more than the largest of each lane's eight scores in a row, a
/// subset as good as any, and is taken again at the end, when few scores are above the bound, to be listed.
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
/// accurate.
///
/// Then it came to list its finds, so that output needs no product (4.9 -> 0.6 ms, dense): dense and with 30
/// % active, without lists 2.8 and 2.3 ms. (7) All finds listed, one after the other in each lane, 350 a row
/// of which 57 are its support: 5.1 and 3.6. (8) The first quarter only counted, and taken again: 4.1
/// and 2.9. (9) Only its largest scores counted; code for each phase apart, 100 KB of it: no gain. One loop
/// for all; scores in shared memory, picked by the number of their bit, so that the loop over finds has no
/// branch; the lists of a lane 128 long instead of 64, hardly ever compacted: 3.4 and 2.7. (10) Counting
/// unconditionally, of nothing where there is no find, as the compiler makes a branch of a condition: 3.1
/// and 2.5. At 4096 tokens blocks of one row tile (0.33 instead of 0.36 ms with 70 % zero tiles). Tried and
/// left: output in the same block after its scan (3.1 + 0.6 -> 4.7 ms: too few warps to hide its loads); one
/// stage of keys and five blocks; two finds at a time instead of one changes nothing.
namespace asplash::kernels::portable {

/// Scores of the warp's rows with 32 keys. Returns (as bits) the bands of which any went into a histogram.
template <typename Block, typename Query>
__device__ inline unsigned int scan_step(const Block& block, int first_key, uint32_t keys, const Query& query,
                                         Finding finding, typename Block::Rows& state) {
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
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const float larger = fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]);
      top[r] = n == 0 ? larger : fmaxf(top[r], larger);
    }
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
  if (finding == Finding::early)
    count_largest(block, top, factor, state);
  else
    take_finds(block, s, found, factor, first_key, top, finding, state);
  return found;
}

/// Every row's bounds from its histogram: lane i of a warp solves row i.
template <bool final, typename Block>
__device__ void solve_rows(const Block& block, typename Block::Rows& state, float* estimates) {
  constexpr int kRows = Block::kThreadRows;
  const int lane = threadIdx.x % 32, own = lane % Block::Layout::kWarpRows, source = own % 8 * 4;
  float lower = kInfinity;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float other = __shfl_sync(0xFFFFFFFFU, state.lower[r], source);
    if (own / 8 == r) lower = other;
  }
  ThresholdBounds bounds{lower, kInfinity, 0};
  const int row = block.warp_row() + own / 16 * kTile + own % 16;
  const float anchor = block.anchor(row);
  const bool has_bound = fabsf(lower) < kInfinity;
  if (has_bound) {
    bounds =
        solve_histogram<final>(block.histogram(row), lower + 1, anchor, block.launch.exponent, block.format);
    bounds.lower = fmaxf(bounds.lower, lower);
    bounds.estimate = fmaxf(bounds.estimate, bounds.lower);
  }
  __syncwarp();  // Lanes beyond the warp's rows repeat others' work: they read what is cleared next.
  if (final) {
    // Of early tiles' scores, any may be missing in the histogram.
    if (lane == own && row < block.place.rows)
      block.launch.crowd[block.place.row_index + row] =
          bounds.crowd + static_cast<float>(early_tiles_of(block.place) * kTile);
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

/// All key tiles that may matter, and again the early ones that do.
template <typename Block, typename Query>
__device__ void scan(const Block& block, const Query& query, typename Block::Rows& state) {
  using Layout = typename Block::Layout;
  constexpr int kStages = Layout::kStages;
  const int tiles = block.place.key_tiles, words = block.launch.params.shape.tile_words();
  const int centre =
      min(max((block.place.row0 + block.place.document.offset() + kTile / 2) / kTile, 0), tiles - 1);
  ScanOrder order(tiles, block.launch.params.causal ? tiles - 1 : centre, block.place.slope == 0);
  const int early_tiles = early_tiles_of(block.place);
  TilesOf early(block.early(), early_tiles > 0 ? words : 0);
  Finding finding = early_tiles > 0 ? Finding::early : Finding::later;
  const auto next_tile = [&] {
    const int tile = order.next();
    return tile >= 0 ? tile : early.next();
  };
  int current = next_tile(), stage = 0;
  int counted = 0;  // half tiles of this warp that counted
  bool solve = false;
  block.load_keys(current, 0);
  for (int visit = 0; current >= 0; ++visit) {
    wait_copies<0>();
    __syncthreads();
    if (visit == early_tiles && early_tiles > 0) {
      for (int i = threadIdx.x; i < words; i += kThreads)
        block.early()[i] = block.candidates(0)[i] | block.candidates(Layout::kRowTiles - 1)[i];
      __syncthreads();  // before others become candidates
      finding = Finding::later;
      solve = true;
    } else if (visit == tiles) {
      finding = Finding::again;
    }
    const int next = next_tile();
    if (kStages == 2 && next >= 0) block.load_keys(next, 1 - stage);
    const uint32_t keys = block.address(Layout::kKeyAt) + stage * Layout::Rows::kBytes;
    unsigned int found = 0;
#pragma unroll 1
    for (int key = 0; key < kTile; key += Layout::kStepKeys) {
      const int first_key = current * kTile + key;
      if (first_key >= block.seen_by_some) break;
      if (solve) {
        solve_rows<false>(block, state, nullptr);
        if (state.lists.full()) state.lists.compact(state.lower);
        solve = false;
      }
      const unsigned int bands =
          scan_step(block, first_key, keys + key * Layout::Rows::kStride, query, finding, state);
      if (bands == 0) continue;
      found |= bands;
      ++counted;
      // Early on, a bound only tells which tiles are candidates: every other power of two will do.
      const int due = finding == Finding::early ? 0x55555554 : finding == Finding::later ? -1 : 0;
      solve = ((counted & (counted - 1)) == 0 && (counted & due) != 0) || state.lists.full();
    }
    if (threadIdx.x % 32 < Layout::kRowTiles && (found >> threadIdx.x % 32 & 1) != 0)
      atomicOr(block.candidates(threadIdx.x % 32) + current / 32, 1U << (current % 32));
    if (block.place.slope > 0 && (visit < 4 || (visit & (visit + 1)) == 0))
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
template <typename T, int head_dim, int row_tiles>
struct ScanQuery {
  using Layout = Scan<T, head_dim, row_tiles>;
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
  wait_and_let_next_kernel_begin();
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
    block.anchor(block.local_row(r)) = 0;
    careful |= !(reach < 1e37F);
  }
  block.careful = __any_sync(0xFFFFFFFFU, careful);
}

template <typename T, int head_dim, int row_tiles>
__global__ void __launch_bounds__(kThreads, (Scan<T, head_dim, row_tiles>::kBlocks))
    entmax_scan_kernel(const __grid_constant__ Launch launch, BlockOrder order) {
  using Block = ScanBlock<T, head_dim, row_tiles>;
  using Layout = typename Block::Layout;
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) char place_memory[sizeof(RowPlace)];
  const RowPlace& place = *reinterpret_cast<const RowPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  if (threadIdx.x == 0) {
    // With documents the grid counts single row tiles.
    const BlockOrder::Place at = row_place(launch, order, p.cu_q == nullptr ? Layout::kRowTiles : 1);
    new (place_memory) RowPlace(place_of_listed(launch, at.tile, at.head, Layout::kRows));
  }
  __syncthreads();
  if (place.rows == 0 || place.row0 % Layout::kRows != 0) {
    leave_without_work();
    return;
  }
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
  state.lists.first = list_of_row(launch, place, block.local_row(0)) + threadIdx.x % 4 * kListOfLane;
  load_queries<Block, T, head_dim>(block, state);
  float estimates[Block::kThreadRows];
#pragma unroll
  for (int r = 0; r < Block::kThreadRows; ++r) estimates[r] = kInfinity;
  if (place.key_tiles > 0) {
    const ScanQuery<T, head_dim, row_tiles> query(block.address(Layout::kQueryAt), block.warp_row());
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
    if (row >= place.rows) continue;
    reinterpret_cast<uint8_t*>(launch.list_lengths + place.row_index + row)[threadIdx.x % 4] =
        static_cast<uint8_t>(state.lists.lost ? kLostList : state.lists.length(r));
    if (threadIdx.x % 4 != 0) continue;
    launch.lower[place.row_index + row] = broken != 0 ? kInfinity : state.lower[r];
    p.tau[place.row_index + row] = broken != 0 ? NAN : block.row_exists(r) ? estimates[r] : kInfinity;
  }
  const int words = p.shape.tile_words();
  for (int tile = 0; tile * kTile < place.rows; ++tile) {
    // No row bits yet: they are written with the output.
    for (int i = threadIdx.x; i < p.shape.mask_words(); i += kThreads)
      p.tile_mask[place.mask_at + tile * p.shape.mask_words() + i] =
          i < words ? block.candidates(tile)[i] : 0;
  }
}

}  // namespace asplash::kernels::portable
