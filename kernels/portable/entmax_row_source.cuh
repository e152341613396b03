#pragma once

#include "portable/tiles.cuh"

/// Rows that are gathered from global memory by their numbers.
namespace asplash::kernels::portable {

/// address + number * bytes, in one instruction.
__device__ inline uint64_t address_of(uint64_t address, uint32_t number, uint32_t bytes) {
  uint64_t result;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(result) : "r"(number), "r"(bytes), "l"(address));
  return result;
}

/// How a warp takes gathered rows: kAtOnce of them, 8 columns a lane, by batches whose loads do not wait for
/// each other.
template <int head_dim>
struct RowLanes {
  static constexpr int kLanes = head_dim <= 32 ? 4 : head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
  static constexpr int kAtOnce = 32 / kLanes;
  static constexpr int kUnroll = 4;
  static constexpr int kBatch = kAtOnce * kUnroll;
};

/// Where rows that are gathered come from.
struct RowSource {
  const char* rows;
  int64_t head_stride;  ///< bytes
  uint32_t row_stride;  ///< bytes; at most kMaximalGatheredStride numbers

  template <typename T>
  static __device__ RowSource of(const AttentionTensor& tensor, int batch, int head, int token, int column) {
    constexpr int kBytes = static_cast<int>(sizeof(T));
    return {reinterpret_cast<const char*>(token_pointer<const T>(tensor, batch, head, token) + column),
            tensor.head_stride * kBytes, static_cast<uint32_t>(tensor.token_stride) * kBytes};
  }
};

}  // namespace asplash::kernels::portable
