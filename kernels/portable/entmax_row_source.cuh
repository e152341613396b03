#pragma once

#include "portable/tiles.cuh"

/// Rows that are gathered from global memory by their numbers.
namespace asplash::kernels::portable {

/// Warps of a block whose warps take rows one at a time. Two such blocks of 16 warps on a multiprocessor were
/// as fast as four of 8, one of 32 a sixth slower, eight of 4 a tenth: less of what rows of a tile share is
/// in the L1 cache then.
constexpr int kRowWarps = 8, kRowThreads = kRowWarps * 32;

/// address + number * bytes: an instruction. (As mad.wide in PTX it becomes three, in plain C++ two.)
__device__ inline uint64_t address_of(uint64_t address, uint32_t number, uint32_t bytes) {
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(number), "r"(bytes));
  return address + product;
}

/// How a warp takes gathered rows: kAtOnce of them, a group of lanes each, 8 columns a lane, by batches whose
/// loads do not wait for each other.
template <int head_dim>
struct RowLanes {
  static constexpr int kLanes = head_dim <= 32 ? 4 : head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
  static constexpr int kAtOnce = 32 / kLanes;
  static constexpr int kUnroll = 4;
  static constexpr int kBatch = kAtOnce * kUnroll;

  static __device__ int group() { return threadIdx.x % 32 / kLanes; }
  static __device__ int column() { return threadIdx.x % kLanes * 8; }
  /// 96 columns leave a quarter of the lanes without.
  static __device__ bool has_columns() { return head_dim % (kLanes * 8) == 0 || column() < head_dim; }

  /// Calls take(first, units) for each batch of `count` rows; units: this lane's 16 bytes of its group's.
  /// `at`: the lane's of row 0; number(i): of the i-th row, for all of the last batch, too.
  template <typename Number, typename Take>
  static __device__ void gather(uint64_t at, uint32_t stride, Number number, int count, Take take) {
    const int own = group();
#pragma unroll 1
    for (int first = 0; first < count; first += kBatch) {
      uint4 units[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i)
        units[i] = __ldg(reinterpret_cast<const uint4*>(
            address_of(at, static_cast<uint32_t>(number(first + own + i * kAtOnce)), stride)));
      take(first, units);
    }
  }
  /// Adds up what the groups have; in all lanes.
  static __device__ void add_groups(float (&x)[8]) {
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) {
#pragma unroll
      for (int c = 0; c < 8; ++c) x[c] += __shfl_xor_sync(0xFFFFFFFFU, x[c], step);
    }
  }
};

/// Where rows that are gathered come from.
struct RowSource {
  const char* rows;
  int64_t head_stride;  ///< bytes
  uint32_t row_stride;  ///< bytes; at most kMaximalGatheredStride numbers

  /// Of row 0, the number at `column`.
  template <typename T>
  __device__ uint64_t at(int column) const {
    return reinterpret_cast<uint64_t>(rows) + column * static_cast<int>(sizeof(T));
  }
  template <typename T>
  static __device__ RowSource of(const AttentionTensor& tensor, int batch, int head, int token, int column) {
    constexpr int kBytes = static_cast<int>(sizeof(T));
    return {reinterpret_cast<const char*>(token_pointer<const T>(tensor, batch, head, token) + column),
            tensor.head_stride * kBytes, static_cast<uint32_t>(tensor.token_stride) * kBytes};
  }
};

}  // namespace asplash::kernels::portable
