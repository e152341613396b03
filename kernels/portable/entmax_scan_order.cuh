#pragma once

#include "portable/tiles.cuh"

/// In which order a block of the scan visits key tiles, and which it need not visit.
namespace asplash::kernels::portable {

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
    if (!block.row_exists(r) || (state.broken >> r & 1) != 0) continue;
    // The slack is far more than the rounding of a product of head_dim terms.
    const float reach = block.reach(block.local_row(r));
    const float slack = 1e-4F * (fabsf(state.lower[r]) + reach) + 1e-4F;
    const float distance = fminf((reach - state.lower[r] + slack) / block.place.slope + 1, 2e9F);
    if (!(distance >= 0)) continue;
    const int64_t position = block.place.row0 + block.local_row(r) + block.place.document.offset();
    const int64_t low = position - static_cast<int64_t>(distance),
                  high = position + static_cast<int64_t>(distance);
    const int64_t last = block.place.key_tiles - 1;
    atomicMin(&shared.first, static_cast<int>(max(low, int64_t{0}) / kTile));
    atomicMax(&shared.last, static_cast<int>(min(max(high, int64_t{0}) / kTile, last)));
  }
  __syncthreads();
  const Window window = shared;
  __syncthreads();
  return window;
}

/// The order of the scan: `start`, below it, the first tile early, then down; what lies above `start` at the
/// end of it. -1 ends it. (Causal: there is nothing above.)
class ScanOrder {
 public:
  __device__ ScanOrder(int tiles, int start, bool sink_early)
      : window{0, tiles - 1},
        start_(start),
        below_(start),
        above_(start),
        sink_due_(sink_early && start > 1),
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

/// The tiles of a set of words, one after the other; -1: no more.
class TilesOf {
 public:
  __device__ TilesOf(const uint32_t* words, int count) : words_(words), count_(count) {}

  __device__ int next() {
    while (left_ == 0) {
      if (++word_ >= count_) return -1;
      left_ = words_[word_];
    }
    const int bit = __ffs(static_cast<int>(left_)) - 1;
    left_ &= left_ - 1;
    return word_ * 32 + bit;
  }

 private:
  const uint32_t* words_;
  int count_, word_ = -1;
  uint32_t left_ = 0;
};

}  // namespace asplash::kernels::portable
