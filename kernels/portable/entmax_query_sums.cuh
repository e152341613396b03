#pragma once

#include "portable/entmax_row_list.cuh"
#include "portable/entmax_row_source.cuh"
#include "portable/tiles.cuh"

/// How dQ is summed over key tiles as integers, which add without rounding, in any order: quanta, pairs of
/// sums and their way from fragments to global memory. (entmax_backward.cuh tells why.)
namespace asplash::kernels::portable {

/// 1 / the smallest power of two that is not below x, which counts as at least 2^low; 1 for 0.
__device__ inline float inverse_power_above(float x, int low) {
  if (!(x > 0)) return 1;
  const uint32_t bits = __float_as_uint(x);
  const int exponent = static_cast<int>(bits >> 23) + ((bits & 0x7FFFFFU) != 0 ? 1 : 0);
  return __uint_as_float(static_cast<uint32_t>(254 - min(max(exponent, 127 + low), 252)) << 23);
}
/// Quanta in 1, of a row whose sums over keys, divided by the column's largest |k|, are at most `bound`: 2^30
/// reach it.
__device__ inline float row_quanta(float bound) { return inverse_power_above(bound, -60) * 0x1p30F; }
__device__ inline float column_quanta(float largest_key) { return inverse_power_above(largest_key, -30); }
/// Powers of two lose nothing in the upper halves of their words.
__device__ inline uint32_t pack_powers(float low, float high) {
  return __float_as_uint(low) >> 16 | __float_as_uint(high);
}
__device__ inline float2 unpack_powers(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}

/// Two sums side by side in 64 bits, so that one addition serves both: what a multiprocessor can send is
/// limited by the number of additions, not by their size. The low one is signed and borrows from the high
/// one; no bit of either is lost.
struct PairOfSums {
  static __device__ unsigned long long of(int low, int high) {
    unsigned long long pair;
    asm("mov.b64 %0, {%1, %2};" : "=l"(pair) : "r"(low), "r"(high + (low >> 31)));
    return pair;
  }
  static __device__ int2 parts(unsigned long long sums) {
    const int low = static_cast<int>(static_cast<uint32_t>(sums));
    const unsigned long long rest = sums - static_cast<unsigned long long>(int64_t{low});
    return {low, static_cast<int>(static_cast<uint32_t>(rest >> 32))};
  }
};

/// *sum += x, in any order with others and with loads.
__device__ inline void add_to(uint64_t sum, unsigned long long x) {
  asm volatile("red.global.add.u64 [%0], %1;" ::"l"(sum), "l"(x));
}

/// dQ sums of a stage on their way from fragments, whose eight rows would be as many requests, to whole lines
/// of one row. Rows are 32 bytes apart in the banks, so that the four that are written at once do not meet.
template <int columns>
struct SumTile {
  static constexpr int kStride = columns * 4 + 32;  ///< bytes
  static constexpr int kBytes = kTile * kStride;
};

/// Adds the first `count` of 32 rows of `columns` sums, `stride` bytes apart in shared memory, to rows of
/// row_bytes from `out` on that have these numbers, by a warp. What is the same for all rows is in constants:
/// four instructions an addition. (A condition on each makes a branch of each.)
template <int columns, int stride, int row_bytes>
__device__ inline void add_rows(unsigned long long* out, const RowNumber* numbers, const char* rows,
                                int count) {
  constexpr int kPairs = columns / 2, kLanes = kPairs <= 8 ? 8 : kPairs <= 16 ? 16 : 32;
  constexpr int kAtOnce = 32 / kLanes, kBatch = 8;
  const int own = threadIdx.x % 32 / kLanes, pair = threadIdx.x % kLanes;
  if (pair >= kPairs) return;
  const uint64_t to = reinterpret_cast<uint64_t>(out + pair);
  rows += own * stride + pair * 8;
  numbers += own;
  if (count >= 32) {
    // Loads by eights, that they do not wait for each other.
#pragma unroll
    for (int first = 0; first < 32; first += kBatch * kAtOnce) {
      unsigned long long batch[kBatch];
      uint32_t number[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        batch[i] = *reinterpret_cast<const unsigned long long*>(rows + (first + i * kAtOnce) * stride);
        number[i] = numbers[first + i * kAtOnce];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) add_to(address_of(to, number[i], row_bytes), batch[i]);
    }
    return;
  }
#pragma unroll 1
  for (int first = 0; first + own < count; first += kAtOnce)
    add_to(address_of(to, numbers[first], row_bytes),
           *reinterpret_cast<const unsigned long long*>(rows + first * stride));
}

}  // namespace asplash::kernels::portable
