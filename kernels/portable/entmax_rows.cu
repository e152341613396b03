// Row-wise entmax thresholds, one block a row.
//
// The row stays in global memory (a row of 16384 fp32 scores is 64 KiB: L1 and L2 hold the rows in flight)
// and is read once for the maximum, once per Newton step and once to write p; 2 to 6 steps are usual, so the
// kernel is bound by L2 bandwidth. Method, as in src/asplash/ops/entmax_cpu_kernels.cpp: Newton's steps from
// the left on the r-norm of u = [z - max - lo]_+ give lower bounds; for exponent 2 and 1 the root with the
// set {u > 0} held fixed is an upper bound, so as soon as no element lies below it the set is the support and
// the root exact.

#include <algorithm>

#include "asplash/kernels/entmax_rows.h"

namespace asplash::kernels {
namespace {

enum class Exponent { two, one, general };

template <class T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float kInfinity = __builtin_huge_valf();
  static constexpr float kEpsilon = 1.2e-7f;
};
template <>
struct Limits<double> {
  static constexpr double kInfinity = __builtin_huge_val();
  static constexpr double kEpsilon = 2.3e-16;
};

template <class T>
struct RowSums {
  double count = 0;
  double slope = 0;                             // sum u^(r-1)
  double total = 0;                             // sum u^r
  double smallest = Limits<double>::kInfinity;  // positive u
};

/// Combines one value per thread in a fixed order; every thread gets the result.
template <int Threads, class F>
__device__ double block_reduce(double value, double* shared, F combine) {
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < Threads / 32; ++warp) value = combine(value, shared[warp]);
  __syncthreads();
  return value;
}

struct Add {
  __device__ double operator()(double a, double b) const { return a + b; }
};
struct Max {
  __device__ double operator()(double a, double b) const { return a > b ? a : b; }
};
struct Min {
  __device__ double operator()(double a, double b) const { return a < b ? a : b; }
};

/// u^(r-1) for u > 0, else 0.
template <class T, Exponent E>
__device__ T slope_weight(T u, T r) {
  if (!(u > 0)) return 0;
  if constexpr (E == Exponent::two) return u;
  if constexpr (E == Exponent::one) return 1;
  return pow(u, r - 1);
}

template <class T, Exponent E, int Threads>
__device__ RowSums<T> row_sums(const T* z, int64_t first, int64_t last, T maximum, T lo, T r,
                               double* shared) {
  T count = 0, slope = 0, total = 0, smallest = Limits<T>::kInfinity;
  for (int64_t j = first + threadIdx.x; j < last; j += Threads) {
    const T u = (z[j] - maximum) - lo;
    if (!(u > 0)) continue;
    const T w = slope_weight<T, E>(u, r);
    count += 1;
    slope += w;
    total += w * u;
    smallest = u < smallest ? u : smallest;
  }
  RowSums<T> sums;
  sums.count = block_reduce<Threads>(count, shared, Add());
  sums.slope = block_reduce<Threads>(slope, shared, Add());
  sums.total = block_reduce<Threads>(total, shared, Add());
  sums.smallest = block_reduce<Threads>(smallest, shared, Min());
  return sums;
}

template <Exponent E, class T>
__device__ double newton_step(const RowSums<T>& s, double r) {
  if constexpr (E == Exponent::two) return (s.total - sqrt(s.total)) / s.slope;
  if constexpr (E == Exponent::one) return (s.total - 1) / s.slope;
  return (s.total - pow(s.total, 1 - 1 / r)) / s.slope;
}

/// Step to the root with the set held fixed; -infinity where there is none or no closed form.
template <Exponent E, class T>
__device__ double closed_form_step(const RowSums<T>& s) {
  if constexpr (E == Exponent::one) return (s.total - 1) / s.count;
  const double discriminant = s.slope * s.slope - s.count * (s.total - 1);
  if (E != Exponent::two || !(discriminant >= 0)) return -Limits<double>::kInfinity;
  return (s.total - 1) / (s.slope + sqrt(discriminant));
}

/// Threshold relative to the maximum, and the size of the support.
template <class T, Exponent E, int Threads>
__device__ T solve(const T* z, int64_t first, int64_t last, T maximum, double r, double* shared,
                   double* support) {
  const T exponent = static_cast<T>(r);
  T lo = -1;
  for (;;) {
    const RowSums<T> sums = row_sums<T, E, Threads>(z, first, last, maximum, lo, exponent, shared);
    const double fixed_support = closed_form_step<E>(sums);
    const double step = newton_step<E>(sums, r);
    const bool stable = E != Exponent::general && fixed_support > -1 && fixed_support < sums.smallest;
    if (!stable && step > 4 * Limits<T>::kEpsilon) {
      lo = static_cast<T>(lo + step);
      continue;
    }
    *support = sums.count;
    const T threshold = static_cast<T>(lo + (fixed_support > -1 ? fixed_support : step));
    if (sums.total <= 2) return threshold;
    // Rounding of the sums far from the root moved it: one step from the root itself mends that.
    const RowSums<T> near = row_sums<T, E, Threads>(z, first, last, maximum, threshold, exponent, shared);
    return static_cast<T>(threshold + newton_step<E>(near, r));
  }
}

template <class T, Exponent E, int Threads>
__global__ void __launch_bounds__(Threads) entmax_rows_kernel(const EntmaxRowsParams params) {
  __shared__ double shared[Threads / 32];
  for (int64_t row = blockIdx.x; row < params.rows; row += gridDim.x) {
    T* const z = static_cast<T*>(params.scores) + row * params.row_stride;
    const int64_t range = row % params.range_rows;
    const int64_t first = params.first ? max(params.first[range], int64_t{0}) : 0;
    const int64_t last = params.last ? min(params.last[range], params.columns) : params.columns;

    T largest = -Limits<T>::kInfinity, not_finite = 0;
    for (int64_t j = first + threadIdx.x; j < last; j += Threads) {
      largest = z[j] > largest ? z[j] : largest;
      not_finite += z[j] * 0;
    }
    const T maximum = static_cast<T>(block_reduce<Threads>(largest, shared, Max()));
    const bool broken = isnan(block_reduce<Threads>(not_finite, shared, Add()));

    T threshold = Limits<T>::kInfinity;
    double support = 0;
    if (!broken && first < last) {
      threshold = solve<T, E, Threads>(z, first, last, maximum, params.exponent, shared, &support);
    }
    for (int64_t j = threadIdx.x; j < params.columns; j += Threads) {
      T p = 0;
      if (j >= first && j < last) {
        const T u = (z[j] - maximum) - threshold;
        p = broken  ? static_cast<T>(nan(""))
            : u > 0 ? slope_weight<T, E>(u, static_cast<T>(params.exponent)) * u
                    : 0;
      }
      z[j] = p;
    }
    if (threadIdx.x == 0) {
      const T tau = first < last ? maximum + threshold : threshold;
      static_cast<T*>(params.tau)[row] = broken ? static_cast<T>(nan("")) : tau;
      if (params.support) params.support[row] = static_cast<int32_t>(support);
    }
  }
}

template <class T, Exponent E>
void launch(const EntmaxRowsParams& params, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(params.rows, int64_t{1} << 30));
  if (params.columns <= 1024) {
    entmax_rows_kernel<T, E, 128><<<blocks, 128, 0, stream>>>(params);
  } else {
    entmax_rows_kernel<T, E, 256><<<blocks, 256, 0, stream>>>(params);
  }
}

template <class T>
void launch(const EntmaxRowsParams& params, cudaStream_t stream) {
  if (params.exponent == 2) return launch<T, Exponent::two>(params, stream);
  if (params.exponent == 1) return launch<T, Exponent::one>(params, stream);
  launch<T, Exponent::general>(params, stream);
}

}  // namespace

cudaError_t entmax_rows(const EntmaxRowsParams& params, cudaStream_t stream) {
  const bool shape_ok = params.rows >= 0 && params.columns >= 0 && params.row_stride >= params.columns &&
                        params.range_rows > 0 && params.columns <= int64_t{1} << 31;
  if (!shape_ok || !(params.exponent >= 1)) return cudaErrorInvalidValue;
  if (params.rows == 0) return cudaSuccess;
  if (!params.tau || (!params.scores && params.columns > 0)) return cudaErrorInvalidValue;
  if (params.double_precision) {
    launch<double>(params, stream);
  } else {
    launch<float>(params, stream);
  }
  return cudaGetLastError();
}

}  // namespace asplash::kernels
