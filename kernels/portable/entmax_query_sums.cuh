#pragma once

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
    const unsigned long long upper = static_cast<uint32_t>(high);
    return (upper << 32) + static_cast<unsigned long long>(int64_t{low});
  }
  static __device__ int2 parts(unsigned long long sums) {
    const int low = static_cast<int>(static_cast<uint32_t>(sums));
    const unsigned long long rest = sums - static_cast<unsigned long long>(int64_t{low});
    return {low, static_cast<int>(static_cast<uint32_t>(rest >> 32))};
  }
};

/// *sum += x where number < limit, in any order with others and with loads. (A branch would cost more.)
__device__ inline void add_below(unsigned long long* sum, unsigned long long x, int number, int limit) {
  asm volatile(
      "{\n"
      ".reg .pred yes;\n"
      "setp.lt.s32 yes, %2, %3;\n"
      "@yes red.global.add.u64 [%0], %1;\n"
      "}\n" ::"l"(sum),
      "l"(x), "r"(number), "r"(limit));
}

/// A warp's dQ sums of a stage on their way from fragments, whose eight rows would be as many requests, to
/// whole lines of one row. They lie where the stage's queries and gradients were, which nobody needs any
/// more. The 32 bytes of each group of 8 columns are permuted by the row, so that the four rows that are
/// written at once do not meet in a bank.
template <int columns>
struct SumTile {
  static constexpr int kGroups = columns / 8;
  static constexpr int kBytes = 32 * columns * 4;
  static __device__ int offset(int row, int group) {
    return row * columns * 4 + (kGroups % 4 == 0 ? group ^ (row & 3) : group) * 32;
  }
};

}  // namespace asplash::kernels::portable
