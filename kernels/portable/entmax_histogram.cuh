#pragma once

#include <cstdint>

#include "portable/tiles.cuh"

/// Histogram of one row's largest scores in shared memory and the threshold that it implies.
///
/// Counted are scores within (lower, lower + 1], lower being a bound of the threshold: a score above lower +
/// 1 proves a better bound, itself minus 1, and then what was below that no longer matters. A score z is in
/// bin round((z - anchor) bins_per_unit), modulo the ring; the window spans one unit, less than the ring.
/// When it moves up, the slots that come into it are cleared; when it moves by a unit or more, the row starts
/// anew with another anchor.
///
/// Two 16-bit counters share a word where a row has at most 65535 keys, so that they cannot overflow; longer
/// rows get 32-bit counters and half of the bins. How many bins are worth their memory: docs/kernels.md.
namespace asplash::kernels::portable {

#ifndef ASPLASH_HISTOGRAM_WORDS
#define ASPLASH_HISTOGRAM_WORDS 32
#endif
constexpr int kHistogramWords = ASPLASH_HISTOGRAM_WORDS;  ///< of one row, a power of two
constexpr int kHistogramStride = kHistogramWords + 1;     ///< odd: spreads rows over the banks

struct HistogramFormat {
  int ring;             ///< slots, a power of two
  int half;             ///< 1: two 16-bit counters a word, 0: one 32-bit counter
  float bins_per_unit;  ///< < ring - 4
  float width;          ///< 1 / bins_per_unit
};

__device__ inline HistogramFormat histogram_format(int keys) {
  constexpr float kPairs = 2 * kHistogramWords - 6, kSingles = kHistogramWords - 6;
  return keys <= 65535 ? HistogramFormat{2 * kHistogramWords, 1, kPairs, 1 / kPairs}
                       : HistogramFormat{kHistogramWords, 0, kSingles, 1 / kSingles};
}

/// Adding this rounds to an integer in the low mantissa bits (|x| < 2^22).
constexpr float kRoundingShift = 12582912.0F;

__device__ inline int bin_of(float z, float anchor, const HistogramFormat& format) {
  return __float_as_int(fmaf(z - anchor, format.bins_per_unit, kRoundingShift)) - 0x4B400000;
}

/// Where `yes`: counts z = product * factor. (A branch would cost more.)
__device__ inline void count_score(uint32_t row, float product, float factor, float anchor,
                                   const HistogramFormat& format, bool yes) {
  const float bin = fmaf(fmaf(product, factor, -anchor), format.bins_per_unit, kRoundingShift);
  const uint32_t slot = __float_as_uint(bin) & (format.ring - 1);
  const uint32_t address = row + (slot >> format.half) * 4, one = format.half ? 1 + (slot & 1) * 0xFFFFU : 1;
  asm volatile(
      "{\n"
      ".reg .pred yes;\n"
      "setp.ne.s32 yes, %2, 0;\n"
      "@yes red.shared.add.u32 [%0], %1;\n"
      "}\n" ::"r"(address),
      "r"(one), "r"(static_cast<int>(yes))
      : "memory");
}

__device__ inline uint32_t count_at(const uint32_t* row, int bin, const HistogramFormat& format) {
  const int slot = bin & (format.ring - 1);
  const uint32_t word = row[slot >> format.half];
  return format.half ? (word >> ((slot & 1) * 16)) & 0xFFFFU : word;
}

/// Clears the slots that come into the window when its top moves from old_top to top; lane `lane` of `lanes`
/// that share the work. Returns the row's anchor from now on.
__device__ inline float move_window(uint32_t* row, float old_top, float top, float anchor,
                                    const HistogramFormat& format, int lane, int lanes) {
  if (!(top - old_top < 1)) {
    for (int i = lane; i < kHistogramWords; i += lanes) row[i] = 0;
    return top;
  }
  const int last = bin_of(top, anchor, format) | format.half;  // words are read as a whole
#pragma unroll 1
  for (int bin = bin_of(old_top, anchor, format) + 1 + lane; bin <= last; bin += lanes) {
    const int slot = bin & (format.ring - 1);
    if (format.half)
      reinterpret_cast<uint16_t*>(row)[slot] = 0;
    else
      row[slot] = 0;
  }
  return anchor;
}

struct ThresholdBounds {
  float lower;     ///< no more than the threshold of the counted scores, hence of the row (subset property)
  float estimate;  ///< expected threshold
};

/// Root for r other than 1 and 2: Newton's steps from the left on the r-norm of [y - t]_+ over the bins, y
/// relative to the window's top.
__device__ inline float root_by_newton(const uint32_t* row, int top, float top_y, float exponent,
                                       const HistogramFormat& format) {
  float t = -1;
  for (int iteration = 0; iteration < 12; ++iteration) {
    float total = 0, slope = 0;
    for (int i = 0; i <= static_cast<int>(format.bins_per_unit) + 1; ++i) {
      const uint32_t count = count_at(row, top - i, format);
      const float u = top_y - i * format.width - t;
      if (count == 0 || u <= 0) continue;
      const float w = __powf(u, exponent - 1) * count;
      total += w * u;
      slope += w;
    }
    if (!(slope > 0)) break;
    const float step = (total - __powf(total, 1 - 1 / exponent)) / slope;
    t += step;
    if (!(fabsf(step) > 1e-4F)) break;
  }
  return t;
}

/// Moments of the bins whose scores lie above the root: n, sum y, sum y^2.
struct Moments {
  float n = 0, y = 0, y2 = 0;

  __device__ void add(float count, float at) {
    n += count;
    y = fmaf(count, at, y);
    y2 = fmaf(count, at * at, y2);
  }
  /// What these scores weigh at the threshold t.
  template <bool square>
  __device__ float mass(float t) const {
    return square ? fmaf(t, fmaf(t, n, -2 * y), y2) : fmaf(-t, n, y);
  }
};

/// Walks down the bins until they weigh 1 at the upper edge of the next, which then lies below the root.
/// Batches of eight bins are only looked at one by one where the walk ends.
template <bool square>
__device__ inline Moments moments_above_root(const uint32_t* row, int top, float top_y,
                                             const HistogramFormat& format) {
  constexpr int kBatch = 8;
  const float width = format.width;
  const int first_bin = top | format.half, bins = format.ring - kBatch;
  float y = fmaf(static_cast<float>(first_bin - top), width, top_y);
  Moments sums;
  for (int first = 0; first <= bins; first += kBatch, y -= kBatch * width) {
    float counts[kBatch];
    if (format.half) {
#pragma unroll
      for (int i = 0; i < kBatch; i += 2) {
        const uint32_t word = row[((first_bin - first - i) & (format.ring - 1)) >> 1];
        counts[i] = static_cast<float>(word >> 16);
        counts[i + 1] = static_cast<float>(word & 0xFFFFU);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        counts[i] = static_cast<float>(row[(first_bin - first - i) & (format.ring - 1)]);
    }
    Moments next = sums;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) next.add(counts[i], y - i * width);
    if (next.template mass<square>(y - (kBatch - 0.5F) * width) < 1) {
      sums = next;
      continue;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float at = y - i * width;
      const bool above = sums.template mass<square>(at + width / 2) < 1;
      sums.add(above ? counts[i] : 0.0F, at);
    }
    break;
  }
  return sums;
}

/// Counting every score at its bin's centre moves it by half a bin width at most, and the threshold with it;
/// that scores lie evenly within their bins adds width^2 / 12 to the expected square of each. window_top:
/// lower + 1.
__device__ inline ThresholdBounds solve_histogram(const uint32_t* row, float window_top, float anchor,
                                                  float exponent, const HistogramFormat& format) {
  const float width = format.width;
  const int top = bin_of(window_top, anchor, format);
  const float top_y = top * width + anchor - window_top;  // y: relative to the window's top
  float root, estimate;
  if (exponent == 2.0F) {
    const Moments sums = moments_above_root<true>(row, top, top_y, format);
    // (y - sqrt(y^2 - n (y2 - 1))) / n by central moments, which do not cancel.
    const float mean = sums.y / sums.n, spread = sums.y2 - sums.y * mean;
    root = mean - sqrtf(fmaxf(1 - spread, 0) / sums.n);
    estimate = mean - sqrtf(fmaxf(1 - spread - sums.n * width * width / 12, 0) / sums.n);
  } else if (exponent == 1.0F) {
    const Moments sums = moments_above_root<false>(row, top, top_y, format);
    root = estimate = (sums.y - 1) / sums.n;
  } else {
    root = estimate = root_by_newton(row, top, top_y, exponent, format);
  }
  ThresholdBounds bounds;
  bounds.lower = window_top + fmaxf(root - width / 2 - 2e-5F, -1.0F);
  bounds.estimate = fmaxf(window_top + estimate, bounds.lower);
  // Rounding of window_top + root for large scores.
  bounds.lower -= 4e-7F * fabsf(window_top);
  return bounds;
}

}  // namespace asplash::kernels::portable
