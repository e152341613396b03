#pragma once

#include <cstdint>

#include "portable/tiles.cuh"

/// Histogram of one row's largest scores in shared memory and the threshold that it implies.
///
/// A score z is counted in bin round((z - anchor) bins_per_unit), modulo the ring. Only scores above a lower bound
/// of the threshold, itself at least max - 1, are counted, so the live bins span one unit: less than the ring. When
/// the maximum rises, the slots that come into the window are cleared before use; when it rises by a unit or more,
/// nothing counted so far matters and the row starts anew with another anchor.
///
/// Two 16-bit counters share a word where a row has at most 65535 keys, so that they cannot overflow; longer rows
/// get 32-bit counters and half of the bins. How many bins are worth their memory: docs/kernels.md.
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

  __device__ float width() const { return 1 / bins_per_unit; }
};

__device__ inline HistogramFormat histogram_format(int keys) {
  return keys <= 65535 ? HistogramFormat{2 * kHistogramWords, 1, 2.0F * kHistogramWords - 6}
                       : HistogramFormat{kHistogramWords, 0, kHistogramWords - 6.0F};
}

/// Adding this rounds to an integer in the low mantissa bits (|x| < 2^22).
constexpr float kRoundingShift = 12582912.0F;

__device__ inline int bin_of(float z, float anchor, const HistogramFormat& format) {
  return __float_as_int(fmaf(z - anchor, format.bins_per_unit, kRoundingShift)) - 0x4B400000;
}

__device__ inline void count_score(uint32_t* row, float z, float anchor, const HistogramFormat& format) {
  const int slot = bin_of(z, anchor, format) & (format.ring - 1);
  atomicAdd(row + (slot >> format.half), 1U << ((slot & format.half) * 16));
}

__device__ inline uint32_t count_at(const uint32_t* row, int bin, const HistogramFormat& format) {
  const int slot = bin & (format.ring - 1);
  const uint32_t word = row[slot >> format.half];
  return format.half ? (word >> ((slot & 1) * 16)) & 0xFFFFU : word;
}

/// The 4 lanes of a row's quad clear the slots that a rise of the maximum brings into the window.
/// Returns the row's anchor from now on.
__device__ inline float raise_maximum(uint32_t* row, float old_maximum, float maximum, float anchor,
                                      const HistogramFormat& format) {
  const int lane = threadIdx.x % 4;
  if (!(maximum - old_maximum < 1)) {
    for (int i = lane; i < kHistogramWords; i += 4) row[i] = 0;
    return maximum;
  }
  const int last = bin_of(maximum, anchor, format);
  for (int bin = bin_of(old_maximum, anchor, format) + 1 + lane; bin <= last; bin += 4) {
    const int slot = bin & (format.ring - 1);
    if (format.half) atomicAnd(row + (slot >> 1), 0xFFFFU << ((~slot & 1) * 16));
    else row[slot] = 0;
  }
  return anchor;
}

struct ThresholdBounds {
  float lower;     ///< no more than the threshold of the counted scores, hence of the row (subset property)
  float estimate;  ///< expected threshold
};

/// Root for r other than 1 and 2: Newton's steps from the left on the r-norm of [y - t]_+ over the bins, y relative
/// to the maximum.
__device__ inline float root_by_newton(const uint32_t* row, int top, float top_y, float exponent,
                                       const HistogramFormat& format) {
  float t = -1;
  for (int iteration = 0; iteration < 12; ++iteration) {
    float total = 0, slope = 0;
    for (int i = 0; i <= static_cast<int>(format.bins_per_unit) + 1; ++i) {
      const uint32_t count = count_at(row, top - i, format);
      const float u = top_y - i * format.width() - t;
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

/// Counting every score at its bin's centre moves it by half a bin width at most, and the threshold with it; that
/// scores lie evenly within their bins adds width^2 / 12 to the expected square of each.
__device__ inline ThresholdBounds solve_histogram(const uint32_t* row, float maximum, float anchor, float exponent,
                                                  const HistogramFormat& format) {
  const float width = format.width();
  const int top = bin_of(maximum, anchor, format);
  const float top_y = top * width + anchor - maximum;
  float root = -1, estimate = -1;
  if (exponent == 2.0F || exponent == 1.0F) {
    float s0 = 0, s1 = 0, s2 = 0;
    for (int i = 0; i <= static_cast<int>(format.bins_per_unit) + 1; ++i) {
      const uint32_t number = count_at(row, top - i, format);
      if (number == 0) continue;
      // The root lies above this bin if the scores above it already weigh more than 1 at its upper edge.
      const float y = top_y - i * width, edge = y + width / 2;
      const float mass = exponent == 2.0F ? s2 + edge * (edge * s0 - 2 * s1) : s1 - edge * s0;
      if (mass >= 1) break;
      const float count = number;
      s0 += count;
      s1 += count * y;
      s2 += count * y * y;
    }
    if (exponent == 1.0F) {
      root = estimate = (s1 - 1) / s0;
    } else {
      // (s1 - sqrt(s1^2 - s0 (s2 - 1))) / s0 by central moments, which do not cancel.
      const float mean = s1 / s0, spread = s2 - s1 * mean;
      root = mean - sqrtf(fmaxf(1 - spread, 0) / s0);
      estimate = mean - sqrtf(fmaxf(1 - spread - s0 * width * width / 12, 0) / s0);
    }
  } else {
    root = estimate = root_by_newton(row, top, top_y, exponent, format);
  }
  ThresholdBounds bounds;
  bounds.lower = maximum + fmaxf(root - width / 2 - 2e-5F, -1.0F);
  bounds.estimate = fmaxf(maximum + estimate, bounds.lower);
  // Rounding of maximum + root for large scores.
  bounds.lower -= 4e-7F * fabsf(maximum);
  return bounds;
}

}  // namespace asplash::kernels::portable
