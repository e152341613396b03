#pragma once

#include "portable/entmax_output.cuh"

/// The threshold of a row whose support is listed, solved on the list to fp32's accuracy, by a warp. (A list
/// holds every score above a lower bound of the threshold.)
namespace asplash::kernels::portable {

/// The keys of a row and their z; once the threshold is known, those with weight and their u = z - tau.
struct Terms {
  float* scores;
  int* keys;
  float2* factors;  ///< what normalizes p and w; of w 0: the row gets no mean
};

constexpr int kMaximalSteps = 32;
/// Below this |M - 1| is rounding; p is normalized by M all the same.
constexpr float kMassRounding = 4e-6F;

struct SumsAt {
  float support, slope, mass;
};

/// How far the next scores are above a threshold, and at or below it; not negative.
struct Nearest {
  float above = kInfinity, below = kInfinity;

  __device__ void take(float distance) {
    above = fminf(above, distance > 0 ? distance : kInfinity);
    below = fminf(below, distance > 0 ? kInfinity : -distance);
  }
  /// Over the warp.
  __device__ void reduce() {
    above = __uint_as_float(__reduce_min_sync(0xFFFFFFFFU, __float_as_uint(above)));
    below = __uint_as_float(__reduce_min_sync(0xFFFFFFFFU, __float_as_uint(below) & 0x7FFFFFFFU));
  }
  /// Whether the support is the same at t as at t + distance, rounding of either included.
  __device__ bool allows(float t, float distance) const {
    const float margin = 2.4e-7F * (fabsf(t) + fabsf(distance));
    return distance + margin < above && margin - distance < below;
  }
};

/// Over the z of `count` terms of the warp's row.
template <Power power>
__device__ inline SumsAt sums_at(const Terms& terms, int count, float t, float exponent, Nearest& nearest) {
  int support = 0;
  float slope = 0, mass = 0;
#pragma unroll 1
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    const float distance = terms.scores[i] - t, u = fmaxf(distance, 0);
    const float w = slope_weight<power>(u, exponent);
    support += u > 0;
    slope += w;
    mass = fmaf(w, u, mass);
    if constexpr (power == Power::square) nearest.take(distance);
  }
  if constexpr (power == Power::square) nearest.reduce();
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    slope += __shfl_xor_sync(0xFFFFFFFFU, slope, step);
    mass += __shfl_xor_sync(0xFFFFFFFFU, mass, step);
  }
  return {static_cast<float>(__reduce_add_sync(0xFFFFFFFFU, support)), slope, mass};
}

struct SolvedRow {
  float tau;
  SumsAt sums;  ///< at tau
  int steps;
};

/// Newton's step from where the sums were taken; r other than 1 and 2: on the r-norm, whose curve is nearly a
/// line, instead of on its power.
template <Power power>
__device__ inline float newton_step(const SumsAt& sums, float exponent) {
  if constexpr (power == Power::general)
    return (sums.mass - __powf(sums.mass, 1 - 1 / exponent)) / sums.slope;
  return (sums.mass - 1) / (exponent * sums.slope);
}

/// The threshold, from an estimate. F(t) = sum [z - t]_+^r is convex and falls: Newton's steps end at or
/// below the root, and so does the root over the scores above a t that lies above it (a subset of the
/// support). From below, the quadratic's root (r = 2) over the scores above t is no less than the root, and
/// the root itself if no score lies between the two, as seen from the nearest scores: nothing is left to be
/// summed then. Where one does, the bound goes on from Newton's step.
template <Power power>
__device__ inline SolvedRow solve_row(const Terms& terms, int count, float t, float lower, float exponent) {
  float bound = lower;
  SolvedRow row{t, {}, 0};
  for (;; ++row.steps) {
    Nearest nearest;
    row.sums = sums_at<power>(terms, count, t, exponent, nearest);
    row.tau = t;
    const float excess = row.sums.mass - 1;
    if (fabsf(excess) <= kMassRounding || row.steps == kMaximalSteps) return row;
    float next = bound;
    if (row.sums.slope > 0) {
      float root = t;
      if constexpr (power == Power::square) {
        const SumsAt& at = row.sums;
        root += root_distance(at.support, at.slope, at.mass, exponent);
        const float distance = root - t;
        if (fabsf(excess) < 0.5F && nearest.allows(t, distance)) {
          row.sums = {at.support, fmaf(-at.support, distance, at.slope),
                      fmaf(fmaf(at.support, distance, -2 * at.slope), distance, at.mass)};
          row.tau = root;
          ++row.steps;
          return row;
        }
      }
      const float newton = t + newton_step<power>(row.sums, exponent);
      if (power != Power::square) root = newton;
      bound = fmaxf(bound, excess > 0 ? newton : root);
      next = excess > 0 ? fmaxf(root, bound) : bound;
    }
    if (fabsf(next - t) <= 1.2e-7F * fabsf(t)) return row;
    t = next;
  }
}

}  // namespace asplash::kernels::portable
