#pragma once

#include <cstdint>

#include "portable/tiles.cuh"

/// Histogram of one row's largest scores in shared memory and the threshold that it implies.
///
/// Counted are scores within (lower, lower + 1], lower being a bound of the threshold: a score above
/// lower + 1 proves a better bound, itself minus 1, and then what was below that no longer matters. The bins
/// form a ring; the window of one unit spans less than the ring. When it moves up, the bins that come into it
/// are cleared; when it moves by a unit or more, the row starts anew with another anchor.
///
/// A bin is one word: how many scores (low bits) and the sum of their places within the bin, in eighths (high
/// bits). So it knows the mean m of its n scores, and that is worth more than many narrow bins: the mass
/// sum [z - t]_+^r is convex in z, so n [m - t]_+^r is no more than what the scores weigh (Jensen), and the
/// root of the sum over bins is a lower bound of the threshold. It misses only what scores vary within their
/// bins, (n - 1) width^2 / 12 where they lie evenly; with that added it is the estimate. (Twice as many bins
/// without means, as before, left five times the error and a bound half a bin below the root.)
namespace asplash::kernels::portable {

#ifndef ASPLASH_HISTOGRAM_BINS
#define ASPLASH_HISTOGRAM_BINS 32
#endif
constexpr int kBins =
    ASPLASH_HISTOGRAM_BINS;  ///< of one row, a power of two; docs/kernels.md has the trade-off
constexpr int kHistogramStride = kBins + 1;  ///< words from row to row; odd: spreads rows over the banks
constexpr int kPlaces = 8;                   ///< within a bin
constexpr float kBinsPerUnit = kBins - 4;
constexpr float kBinWidth = 1 / kBinsPerUnit;
constexpr float kPlaceWidth = kBinWidth / kPlaces;

/// How a bin's word is divided, for rows of at most `keys` keys: counts cannot overflow. Sums of places can
/// where a bin holds more than `limit` scores (18724 up to 32767 keys); its places then count as the lowest.
struct HistogramFormat {
  int count_bits;
  uint32_t limit;
};
__device__ inline HistogramFormat histogram_format(int keys) {
  const int bits = max(15, 32 - __clz(keys));
  return {bits, (0xFFFFFFFFU >> bits) / (kPlaces - 1)};
}

/// Adding this rounds to an integer in the low mantissa bits (|x| < 2^22).
constexpr float kRoundingShift = 12582912.0F;

/// Places from the anchor, as they are counted: bin * kPlaces + place within the bin, plus the bits of
/// kRoundingShift, which are zero where bins and places are looked at.
__device__ inline uint32_t places_of(float z_from_anchor) {
  return __float_as_uint(fmaf(z_from_anchor, kBinsPerUnit * kPlaces, kRoundingShift));
}
__device__ inline int bin_of(float z, float anchor) {
  return (static_cast<int>(places_of(z - anchor)) - 0x4B400000) >> 3;
}

/// Where `yes`: counts z = product * factor.
__device__ inline void count_score(uint32_t row, float product, float factor, float anchor,
                                   const HistogramFormat& format, bool yes) {
  const uint32_t places = places_of(fmaf(product, factor, -anchor));
  // An addition of nothing: with a condition the compiler makes a branch of it all.
  add_to_word(row + places / kPlaces % kBins * 4, yes ? 1 + (places % kPlaces << format.count_bits) : 0);
}

/// Clears the bins that come into the window when its top moves from old_top to top; lane `lane` of `lanes`
/// that share the work. Returns the row's anchor from now on.
__device__ inline float move_window(uint32_t* row, float old_top, float top, float anchor, int lane,
                                    int lanes) {
  if (!(top - old_top < 1)) {
    for (int i = lane; i < kBins; i += lanes) row[i] = 0;
    return top;
  }
  const int last = bin_of(top, anchor);
#pragma unroll 1
  for (int bin = bin_of(old_top, anchor) + 1 + lane; bin <= last; bin += lanes) row[bin & (kBins - 1)] = 0;
  return anchor;
}

struct ThresholdBounds {
  float lower;     ///< no more than the threshold of the counted scores, hence of the row (subset property)
  float estimate;  ///< expected threshold
  float crowd;     ///< no fewer than the counted scores between the two
};

/// A bin's count and mean, places from the bin's lowest.
struct Bin {
  float count, mean;

  __device__ Bin(uint32_t word, const HistogramFormat& format) {
    const uint32_t number = word & ((1U << format.count_bits) - 1);
    count = static_cast<float>(number);
    mean = number == 0 || number > format.limit
               ? 0.0F
               : __fdividef(static_cast<float>(word >> format.count_bits), count);
  }
};

/// Of the bins above the root: n, sum y, sum y^2 (each score at its bin's mean), and in units of width^2 / 12
/// what the scores vary within bins, if density is even; less where the neighbours are emptier, none in a
/// lone bin.
struct Moments {
  float n = 0, y = 0, y2 = 0, within = 0;

  __device__ void add(float count, float at, float neighbours) {
    n += count;
    y = fmaf(count, at, y);
    y2 = fmaf(count, at * at, y2);
    within += fmaxf(fminf(count - 1, neighbours / 2), 0);
  }
  /// What these scores weigh at the threshold t, below all of them.
  template <bool square>
  __device__ float mass(float t) const {
    return square ? fmaf(t, fmaf(t, n, -2 * y), y2) : fmaf(-t, n, y);
  }
};

/// Walks down the bins, whose lowest places lie at y, y - width, ..., until they weigh 1 at the next bin's
/// mean, which then lies below the root. Batches of eight bins are only looked at one by one where the walk
/// ends.
template <bool square, bool within>
__device__ inline Moments moments_above_root(const uint32_t* row, int top, float y,
                                             const HistogramFormat& format) {
  constexpr int kBatch = 8;
  Moments sums;
  float above = 0;  // count of the bin before
  for (int first = 0; first < kBins; first += kBatch, y -= kBatch * kBinWidth) {
    float counts[kBatch + 1], at[kBatch];
#pragma unroll
    for (int i = 0; i <= kBatch; ++i) {
      const Bin bin(row[(top - first - i) & (kBins - 1)], format);
      counts[i] = bin.count;
      if (i < kBatch) at[i] = fmaf(bin.mean, kPlaceWidth, y - i * kBinWidth);
    }
    const auto neighbours = [&](int i) {
      return within ? (i > 0 ? counts[i - 1] : above) + counts[i + 1] : 0.0F;
    };
    Moments next = sums;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) next.add(counts[i], at[i], neighbours(i));
    if (next.template mass<square>(y - (kBatch - 1) * kBinWidth) < 1) {
      sums = next;
      above = counts[kBatch - 1];
      continue;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      sums.add(sums.template mass<square>(at[i]) < 1 ? counts[i] : 0.0F, at[i], neighbours(i));
    break;
  }
  return sums;
}

/// Root for r other than 1 and 2: Newton's steps from the left on the r-norm of [y - t]_+ over the bins.
__device__ inline float root_by_newton(const uint32_t* row, int top, float y, float exponent,
                                       const HistogramFormat& format) {
  float t = -1;
  for (int iteration = 0; iteration < 12; ++iteration) {
    float total = 0, slope = 0;
#pragma unroll 1
    for (int i = 0; i < kBins - 2; ++i) {
      const Bin bin(row[(top - i) & (kBins - 1)], format);
      const float u = fmaf(bin.mean, kPlaceWidth, y - i * kBinWidth) - t;
      if (bin.count == 0 || u <= 0) continue;
      const float w = __powf(u, exponent - 1) * bin.count;
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

/// How many scores lie in the bins from that of `low` to that of `high`.
__device__ inline float count_between(const uint32_t* row, float low, float high, float anchor,
                                      const HistogramFormat& format) {
  float count = 0;
  const int last = bin_of(high, anchor);
#pragma unroll 1
  for (int bin = max(bin_of(low, anchor), last - kBins + 1); bin <= last; ++bin)
    count += Bin(row[bin & (kBins - 1)], format).count;
  return count;
}

/// window_top: lower + 1. Scores lie within half a place of where they were counted. final: with the
/// estimate.
template <bool final>
__device__ inline ThresholdBounds solve_histogram(const uint32_t* row, float window_top, float anchor,
                                                  float exponent, const HistogramFormat& format) {
  const int top = bin_of(window_top, anchor);
  const float y = top * kBinWidth + anchor - window_top;  // relative to the window's top
  float root, estimate;
  if (exponent == 2.0F) {
    const Moments sums = moments_above_root<true, final>(row, top, y, format);
    // (y - sqrt(y^2 - n (y2 - 1))) / n by central moments, which do not cancel.
    const float mean = sums.y / sums.n, spread = sums.y2 - sums.y * mean;
    root = mean - sqrtf(fmaxf(1 - spread, 0) / sums.n);
    const float within = sums.within * (kBinWidth * kBinWidth / 12);
    estimate = mean - sqrtf(fmaxf(1 - spread - within, 0) / sums.n);
  } else if (exponent == 1.0F) {
    const Moments sums = moments_above_root<false, false>(row, top, y, format);
    root = estimate = (sums.y - 1) / sums.n;
  } else {
    root = estimate = root_by_newton(row, top, y, exponent, format);
  }
  ThresholdBounds bounds;
  bounds.lower = window_top + fmaxf(root - kPlaceWidth / 2 - 2e-5F, -1.0F);
  bounds.estimate = fmaxf(window_top + estimate, bounds.lower);
  // Rounding of window_top + root for large scores, and of places for anchors far from the window.
  bounds.lower -= 4e-7F * (fabsf(window_top) + fabsf(window_top - anchor));
  bounds.crowd = final ? count_between(row, bounds.lower, bounds.estimate, anchor, format) : 0;
  return bounds;
}

}  // namespace asplash::kernels::portable
