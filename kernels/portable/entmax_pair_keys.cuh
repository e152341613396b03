#pragma once

#include "portable/entmax_pairs.cuh"

/// dK and dV from the pairs that entmax_pair_rows.cuh left, two products where whole tiles need four:
///
///     dV_j = sum_i p_ij dO_i     dK_j = scale sum_i dS_ij q_i
///
/// A block takes a tile of keys through the rows that give one of them weight, of all query heads of its
/// group, in stages of 64: their queries and gradients are gathered, p and dS of its pairs scattered into
/// tiles of zeros. Four warps sum dV and four dK: 32 keys and half of the columns each.
namespace asplash::kernels::portable {

constexpr int kPairThreads = 256;
constexpr int kSlots = 64;  ///< rows of a stage

template <typename T, int head_dim>
struct PairKeys {
  static constexpr int kChunk = head_dim <= 128 ? head_dim : 128;  ///< columns of dK and dV of one block
  static constexpr int kChunks = head_dim / kChunk;
  using Rows = Tile<T, kChunk>;
  using Weights = Tile<T, kSlots>;  ///< keys x slots
  static constexpr int kStageBytes = 2 * Rows::kBytes, kWeightsAt = 2 * kStageBytes;
  static constexpr int kWeightsBytes = 2 * Weights::kBytes;
  static constexpr int kSharedBytes = kWeightsAt + 2 * kWeightsBytes;
  static constexpr int kBlocks = head_dim <= 64 ? 3 : 2;
  static constexpr int kUnroll = kChunk <= 64 ? 2 : 1;  ///< of a stage's products, 16 slots each
};

/// What a block works on; in shared memory.
struct PairKeyPlace : KeyTilePlace {
  int head;              ///< first of the group, from first_head on
  int group;             ///< query heads
  RowSource sources[2];  ///< of the group's first head: gradients, queries
};

/// The rows with pairs, of 32 row tiles of a query head at a time: a lane knows those of its row tile. The
/// same in all warps. Rows are numbered in their order.
class RowStages {
 public:
  __device__ RowStages(const Launch& launch, const PairKeyPlace& place) : launch_(launch), place_(place) {}

  /// On to the next stage, whose first pairs begin to be loaded.
  __device__ void next() {
    first_row_ += kSlots;
    while (first_row_ >= rows_) {
      if (!next_tiles()) {
        first_row_ = rows_;
        return;
      }
      first_row_ = 0;
    }
    const uint32_t tiles = __ballot_sync(0xFFFFFFFFU, own_rows_ > 0 && rows_before_ < first_row_ + kSlots &&
                                                          rows_before_ + own_rows_ > first_row_);
    const int first = __ffs(static_cast<int>(tiles)) - 1, last = 31 - __clz(static_cast<int>(tiles));
    next_pair_ =
        __shfl_sync(0xFFFFFFFFU, pairs_end_ - place_of_pairs_.count(), first) + threadIdx.x / 32 * 32;
    end_ = __shfl_sync(0xFFFFFFFFU, pairs_end_, last);
    load();
  }
  /// Rows of the stage; 0 after the last.
  __device__ int rows() const { return min(rows_ - first_row_, kSlots); }
  __device__ int member() const { return member_; }  ///< of the group of query heads

  /// Calls take(slot, pair, token of its row, from the document's first) for the thread's share of the
  /// stage's pairs; once a stage.
  template <typename Take>
  __device__ void for_each(Take take) {
    while (true) {
      const int slot = slots_before_ + pair_.rank();
      if (slot >= 0 && slot < kSlots) take(slot, pair_, row_tile_ + pair_.row());
      if (next_pair_ >= end_) return;
      load();
    }
  }

 private:
  /// The warp's next 32 pairs, if it has more. Nothing here waits for them.
  __device__ void load() {
    slots_before_ = -kSlots;  // the thread has none
    if (next_pair_ >= end_) return;
    const int index = next_pair_ + static_cast<int>(threadIdx.x % 32);
    next_pair_ += kPairThreads;
    int source = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const int last = __shfl_sync(0xFFFFFFFFU, pairs_end_, source + step - 1);
      if (last <= index) source += step;
    }
    const int first =
        __shfl_sync(0xFFFFFFFFU, place_of_pairs_.first() - (pairs_end_ - place_of_pairs_.count()), source);
    const int before = __shfl_sync(0xFFFFFFFFU, rows_before_, source);
    if (index >= end_) return;
    const Pair* pairs =
        pairs_of(launch_, place_.head + member_, place_.document.q_begin + (tile_ + source) * kTile);
    pair_ = pairs[first + index];
    row_tile_ = (tile_ + source) * kTile;
    slots_before_ = before - first_row_;
  }
  __device__ bool next_tiles() {
    const int lane = threadIdx.x % 32;
    const int tiles = place_.document.row_tiles();
    tile_ += 32;
    if (tile_ >= tiles) {
      if (++member_ >= place_.group || place_.document.k_length > kMaximalKeys) return false;
      tile_ = place_.first_row_tile(launch_.params.causal);
      if (tile_ >= tiles) return false;  // no row sees the keys
    }
    const Segment* segments =
        segments_of(launch_, place_.head + member_, place_.key_tile) + place_.document.row_tile_begin + tile_;
    const Segment segment = tile_ + lane < tiles ? segments[lane] : Segment{};
    place_of_pairs_ = segment.place;
    pairs_end_ = sum_up_to_lane(place_of_pairs_.count());
    own_rows_ = __popcll(segment.rows);
    rows_before_ = sum_up_to_lane(own_rows_);
    rows_ = __shfl_sync(0xFFFFFFFFU, rows_before_, 31);
    rows_before_ -= own_rows_;
    return true;
  }

  const Launch& launch_;
  const PairKeyPlace& place_;
  int member_ = -1, tile_ = 1 << 30;
  int rows_ = 0;       ///< of the row tiles
  int first_row_ = 0;  ///< of the stage
  // The thread's pair, and what the warp still has of the stage's:
  Pair pair_ = {};
  int row_tile_ = 0;      ///< the first of its rows
  int slots_before_ = 0;  ///< those of the stage's rows before its row tile; negative: rows before the stage
  int next_pair_ = 0, end_ = 0;
  // Of the lane's row tile:
  PackedRange place_of_pairs_ = {};
  int pairs_end_ = 0;                   ///< pairs up to its end
  int own_rows_ = 0, rows_before_ = 0;  ///< rows with pairs, and those before it
};

/// Copies rows of `columns` numbers to a stage's slots, of which the first `count` have the numbers in
/// `rows`; the others get the last of these. By half of the block.
template <typename T, int columns>
__device__ inline void gather_slots(uint32_t to, const char* from, uint32_t stride, const int* rows,
                                    int count) {
  constexpr int kUnits = columns / 8, kHalf = kPairThreads / 2;
  const int thread = threadIdx.x % kHalf;
  if constexpr (kHalf % kUnits == 0) {
    // A thread copies one unit of many rows. Each address is one multiplication and addition.
    constexpr int kRows = kHalf / kUnits;
    uint64_t unit_from = reinterpret_cast<uint64_t>(from) + thread % kUnits * 16;
    asm volatile("" : "+l"(unit_from));
    const uint32_t unit_to = to + thread / kUnits * Tile<T, columns>::kStride + thread % kUnits * 16;
    const int number_at = static_cast<int>(shared_address(rows));
    const int first = number_at + thread / kUnits * 4, last = number_at + count * 4 - 4;
    uint32_t numbers[kSlots / kRows];  // all before the first copy: none waits for another
#pragma unroll
    for (int i = 0; i < kSlots / kRows; ++i)
      numbers[i] = load_word(static_cast<uint32_t>(min(first + i * kRows * 4, last)));
#pragma unroll
    for (int i = 0; i < kSlots / kRows; ++i)
      copy_async(unit_to + i * kRows * Tile<T, columns>::kStride,
                 reinterpret_cast<const void*>(address_of(unit_from, numbers[i], stride)));
  } else {
#pragma unroll
    for (int i = 0; i < kSlots * kUnits / kHalf; ++i) {
      const int slot = (thread + i * kHalf) / kUnits, unit = (thread + i * kHalf) % kUnits;
      copy_async(to + slot * Tile<T, columns>::kStride + unit * 16,
                 from + uint64_t{static_cast<uint32_t>(rows[min(slot, count - 1)])} * stride + unit * 16);
    }
  }
}

template <typename T, int head_dim>
struct PairKeysBlock {
  using Layout = PairKeys<T, head_dim>;

  const Launch& launch;
  const PairKeyPlace& place;
  int* rows;  ///< of the stage being listed
  char* shared;

  static __device__ int role() { return threadIdx.x / 128; }  ///< of the warp; 0: dV, 1: dK
  static __device__ int warp_key() { return threadIdx.x / 64 % 2 * 32; }
  static __device__ int warp_column() { return threadIdx.x / 32 % 2 * (Layout::kChunk / 2); }
  __device__ char* weights(int buffer, int of) const {
    return shared + Layout::kWeightsAt + buffer * Layout::kWeightsBytes + of * Layout::Weights::kBytes;
  }
  __device__ char* stage(int buffer, int of) const {
    return shared + buffer * Layout::kStageBytes + of * Layout::Rows::kBytes;
  }
  /// Of the warp's keys, which another warp reads, too, after both have.
  __device__ void clear_weights(int buffer) const {
    meet_pair();
    uint4* at = reinterpret_cast<uint4*>(weights(buffer, role()) + warp_key() * Layout::Weights::kStride);
    constexpr int kUnits = 32 * Layout::Weights::kStride / 16;
#pragma unroll
    for (int i = 0; i < kUnits; i += 64) {
      const int unit = i + static_cast<int>(threadIdx.x % 64);
      if (i + 64 <= kUnits || unit < kUnits) at[unit] = {0, 0, 0, 0};
    }
  }
  /// The two warps with the same keys.
  __device__ void meet_pair() const {
    asm volatile("bar.sync %0, 64;" ::"r"(1 + static_cast<int>(threadIdx.x / 64)) : "memory");
  }
  __device__ void scatter(RowStages& stages, int buffer) const {
    char* p = weights(buffer, 0);
    char* ds = weights(buffer, 1);
    stages.for_each([&](int slot, const Pair& pair, int row) {
      rows[slot] = row;
      const int at = pair.key() * Layout::Weights::kStride + slot * 2;
      *reinterpret_cast<uint16_t*>(p + at) = static_cast<uint16_t>(pair.value);
      *reinterpret_cast<uint16_t*>(ds + at) = static_cast<uint16_t>(pair.value >> 16);
    });
  }
  /// Copies the rows of a stage; slots without one get another's.
  __device__ void gather(int count, int member, int buffer) const {
    const RowSource& source = place.sources[role()];
    gather_slots<T, Layout::kChunk>(shared_address(stage(buffer, role())),
                                    source.rows + member * source.head_stride, source.row_stride, rows,
                                    count);
    commit_copies();
  }
};

/// Sums of a warp: 32 keys, half of the columns.
template <int columns>
using KeySums = float[2][columns / 16][4];

template <typename T, int head_dim>
__device__ inline void add_stage(const PairKeysBlock<T, head_dim>& block, int buffer,
                                 KeySums<PairKeys<T, head_dim>::kChunk>& sums) {
  using Layout = PairKeys<T, head_dim>;
  const uint32_t weights = shared_address(block.weights(buffer, block.role()));
  const uint32_t rows = shared_address(block.stage(buffer, block.role()));
#pragma unroll(Layout::kUnroll)
  for (int k = 0; k < kSlots / 16; ++k) {
    const Fragment a[2] = {Layout::Weights::left(weights, block.warp_key(), k * 16),
                           Layout::Weights::left(weights, block.warp_key() + 16, k * 16)};
#pragma unroll
    for (int n = 0; n < Layout::kChunk / 32; ++n) {
      const Fragment b = Layout::Rows::right_of_columns(rows, k * 16, block.warp_column() + n * 16);
#pragma unroll
      for (int band = 0; band < 2; ++band) {
        Element<T>::multiply_add(sums[band][2 * n], a[band], b.x[0], b.x[1]);
        Element<T>::multiply_add(sums[band][2 * n + 1], a[band], b.x[2], b.x[3]);
      }
    }
  }
}

/// Writes the gradients of the warp's keys; adds to them what tiles have left.
template <typename T, int head_dim>
__device__ inline void write_sums(const PairKeysBlock<T, head_dim>& block,
                                  const KeySums<PairKeys<T, head_dim>::kChunk>& sums) {
  const PairKeyPlace& place = block.place;
  const EntmaxAttentionParams& p = block.launch.params;
  const bool values = block.role() == 0;
  const AttentionTensor& tensor =
      values ? block.launch.gradients.grad_value : block.launch.gradients.grad_key;
  const float* part = values ? block.launch.grad_value_part : block.launch.grad_key_part;
  const float scale = values ? 1 : p.scale;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int key = place.key_tile * kTile + block.warp_key() + r / 2 * 16 + element_row(r % 2 * 2);
    if (key >= place.document.k_length) continue;
    const int token = place.document.k_begin + key;
    const int column = place.first_column + block.warp_column() + threadIdx.x % 4 * 2;
    const float* from = part + key_part_at(p.shape, place.kv_index, token) + column;
    T* to = token_pointer<T>(tensor, place.batch, place.kv_head, token) + column;
#pragma unroll
    for (int n = 0; n < PairKeys<T, head_dim>::kChunk / 16; ++n) {
      const float(&sum)[4] = sums[r / 2][n];
      float2 before = {0, 0};
      if (place.ways.tiles) before = *reinterpret_cast<const float2*>(from + n * 8);
      *reinterpret_cast<uint32_t*>(to + n * 8) =
          Element<T>::pack(fmaf(sum[r % 2 * 2], scale, before.x), fmaf(sum[r % 2 * 2 + 1], scale, before.y));
    }
  }
}

template <typename T, int head_dim>
__global__ void __launch_bounds__(kPairThreads, (PairKeys<T, head_dim>::kBlocks))
    entmax_pair_keys_kernel(const __grid_constant__ Launch launch, BlockOrder order) {
  using Layout = PairKeys<T, head_dim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ int rows[kSlots];
  __shared__ __align__(16) char place_memory[sizeof(PairKeyPlace)];
  PairKeyPlace& place = *reinterpret_cast<PairKeyPlace*>(place_memory);
  const EntmaxAttentionParams& p = launch.params;
  const int group = p.shape.heads / p.shape.kv_heads;
  if (threadIdx.x == 0) {
    place.take(launch, order, Layout::kChunks, Layout::kChunk);
    place.head = place.kv_index * group - launch.first_head;
    place.group = group;
    const int head = place.kv_head * group, token = place.document.q_begin;
    place.sources[0] =
        RowSource::of<T>(launch.gradients.grad_out, place.batch, head, token, place.first_column);
    place.sources[1] = RowSource::of<T>(p.query, place.batch, head, token, place.first_column);
  }
  __syncthreads();
  if (place.key_tile * kTile >= place.document.k_length || !place.ways.pairs) {
    leave_without_work();
    return;
  }
  const PairKeysBlock<T, head_dim> block{launch, place, rows, shared};
  RowStages stages(launch, place);
  KeySums<Layout::kChunk> sums = {};
  block.clear_weights(0);
  block.clear_weights(1);
  wait_and_let_next_kernel_begin();
  stages.next();
  __syncthreads();
  int count = stages.rows(), member = stages.member();
  if (count > 0) {
    block.scatter(stages, 0);
    stages.next();
    __syncthreads();
    block.gather(count, member, 0);
  }
#pragma unroll 1
  for (int buffer = 0; count > 0; buffer = 1 - buffer) {
    wait_copies<0>();
    __syncthreads();  // the stage is there, and the list of rows free
    count = stages.rows();
    member = stages.member();
    if (count > 0) {
      block.scatter(stages, 1 - buffer);
      stages.next();
    }
    __syncthreads();
    if (count > 0) block.gather(count, member, 1 - buffer);
    add_stage(block, buffer, sums);
    block.clear_weights(buffer);
  }
  write_sums(block, sums);
}

}  // namespace asplash::kernels::portable
