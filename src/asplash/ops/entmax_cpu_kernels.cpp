// Compiled once per instruction set with ASPLASH_ISA naming it. Includes nothing that could define inline
// functions shared with other files: the linker might keep this file's copy, which other processors cannot
// run.

#include "asplash/ops/entmax_cpu_kernels.h"

#if defined(__x86_64__) && defined(__linux__)
// glibc's libmvec holds vector forms of these (4 ulp); loops marked `omp simd` then call those.
#pragma omp declare simd notinbranch
extern "C" float powf(float, float) noexcept;
#pragma omp declare simd notinbranch
extern "C" double pow(double, double) noexcept;
#else
extern "C" float powf(float, float) noexcept;
extern "C" double pow(double, double) noexcept;
#endif

namespace asplash::ops::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kColumnVectors = 4;  // 4 x 4 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr int kColumnVectors = 2;  // 4 x 2 accumulators of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kColumnVectors = 2;
#endif

template <class T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

  static Vector load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(T* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static Vector all(T x) { return Vector{} + x; }
  static Vector iota() {
    Vector v{};
    for (int i = 0; i < kLanes; ++i) v[i] = static_cast<T>(i);
    return v;
  }
  static Vector maximum(Vector a, Vector b) { return a > b ? a : b; }
  static Vector minimum(Vector a, Vector b) { return a < b ? a : b; }
  /// NaN stays NaN.
  static Vector positive_part(Vector a) { return a <= Vector{} ? Vector{} : a; }
  static T sum(Vector v) {
    return fold(v, [](T a, T b) { return a + b; });
  }
  static T largest(Vector v) {
    return fold(v, [](T a, T b) { return a > b ? a : b; });
  }
  static T smallest(Vector v) {
    return fold(v, [](T a, T b) { return a < b ? a : b; });
  }

 private:
  /// Pairwise, halves against halves: a fixed order that the compiler turns into a few shuffles.
  template <class F>
  static T fold(Vector v, F f) {
    T lanes[kLanes];
    __builtin_memcpy(lanes, &v, sizeof(v));
#pragma GCC unroll 8
    for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < half; ++i) lanes[i] = f(lanes[i], lanes[i + half]);
    }
    return lanes[0];
  }
};

template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_inf());
template <class T>
constexpr T kEpsilon = sizeof(T) == 4 ? static_cast<T>(1.2e-7) : static_cast<T>(2.3e-16);

inline float power(float x, float e) { return powf(x, e); }
inline double power(double x, double e) { return pow(x, e); }

// ---- small matrix products ----

template <class T, int Rows, int Columns>
inline void multiply_block(int64_t k, const T* a, int64_t a_row_stride, int64_t a_column_stride, const T* b,
                           int64_t b_stride, T* c, int64_t c_stride, bool accumulate) {
  using S = Simd<T>;
  typename S::Vector sums[Rows][Columns];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) {
      sums[i][j] = accumulate ? S::load(c + i * c_stride + j * S::kLanes) : typename S::Vector{};
    }
  }
  for (int64_t p = 0; p < k; ++p) {
    typename S::Vector b_row[Columns];
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) b_row[j] = S::load(b + p * b_stride + j * S::kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const typename S::Vector x = S::all(a[i * a_row_stride + p * a_column_stride]);
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) sums[i][j] += x * b_row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) S::store(c + i * c_stride + j * S::kLanes, sums[i][j]);
  }
}

template <class T, int Columns>
void multiply_columns(int64_t m, int64_t k, const T* a, int64_t a_row_stride, int64_t a_column_stride,
                      const T* b, int64_t b_stride, T* c, int64_t c_stride, bool accumulate) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) {
    multiply_block<T, 4, Columns>(k, a + i * a_row_stride, a_row_stride, a_column_stride, b, b_stride,
                                  c + i * c_stride, c_stride, accumulate);
  }
  for (; i < m; ++i) {
    multiply_block<T, 1, Columns>(k, a + i * a_row_stride, a_row_stride, a_column_stride, b, b_stride,
                                  c + i * c_stride, c_stride, accumulate);
  }
}

template <class T>
void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row_stride, int64_t a_column_stride,
              const T* b, int64_t b_stride, T* c, int64_t c_stride, bool accumulate) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  int64_t j = 0;
  for (; j + kColumnVectors * kLanes <= n; j += kColumnVectors * kLanes) {
    multiply_columns<T, kColumnVectors>(m, k, a, a_row_stride, a_column_stride, b + j, b_stride, c + j,
                                        c_stride, accumulate);
  }
  for (; j < n; j += kLanes) {
    multiply_columns<T, 1>(m, k, a, a_row_stride, a_column_stride, b + j, b_stride, c + j, c_stride,
                           accumulate);
  }
}

template <class T>
double square_sum(int64_t n, const T* x) {
  constexpr int kParts = 8;  // independent sums, so that the additions overlap
  double parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= n; i += kParts) {
    for (int p = 0; p < kParts; ++p)
      parts[p] += static_cast<double>(x[i + p]) * static_cast<double>(x[i + p]);
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int p = 0; p < kParts; ++p) sum += parts[p];
  return sum;
}

// ---- scores ----

/// Number of leading columns of a row that exist.
inline int64_t row_limit(const TileGeometry& g, int64_t row) {
  if (!g.causal) return g.columns;
  const int64_t seen = g.first_distance + row + 1;
  return seen < 0 ? 0 : (seen < g.columns ? seen : g.columns);
}

inline bool has_missing_pairs(const TileGeometry& g) {
  return g.columns < kTile || (g.causal && g.first_distance < kTile - 1);
}

template <class T, bool Alibi>
inline typename Simd<T>::Vector score(typename Simd<T>::Vector product, typename Simd<T>::Vector column,
                                      T row_distance, ScoreFactors<T> factors) {
  using S = Simd<T>;
  typename S::Vector z = product * factors.product;
  if (Alibi) {
    const typename S::Vector distance = row_distance - column;
    z -= factors.slope * S::maximum(distance, -distance);
  }
  return z;
}

template <class T, bool Alibi, bool Masked>
void score_tile_as(const TileGeometry& g, ScoreFactors<T> factors, T* tile, T* row_max, T* taint) {
  using S = Simd<T>;
  const typename S::Vector iota = S::iota();
  for (int64_t r = 0; r < g.rows; ++r) {
    const T row_distance = static_cast<T>(g.first_distance + r);
    const typename S::Vector limit = S::all(static_cast<T>(row_limit(g, r)));
    typename S::Vector largest = S::all(-kInfinity<T>);
    typename S::Vector not_finite{};
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      const typename S::Vector column = iota + static_cast<T>(c);
      T* const at = tile + r * kTile + c;
      typename S::Vector z = score<T, Alibi>(S::load(at), column, row_distance, factors);
      not_finite += (Masked ? (column < limit ? z : typename S::Vector{}) : z) * static_cast<T>(0);
      if (Masked) z = column < limit ? z : S::all(-kInfinity<T>);
      largest = S::maximum(z, largest);
      S::store(at, z);
    }
    row_max[r] = S::largest(largest);
    taint[r] += S::sum(not_finite);
  }
}

template <class T>
void score_tile(const TileGeometry& g, ScoreFactors<T> factors, T* tile, T* row_max, T* taint) {
  const bool masked = has_missing_pairs(g);
  if (factors.slope != 0) {
    masked ? score_tile_as<T, true, true>(g, factors, tile, row_max, taint)
           : score_tile_as<T, true, false>(g, factors, tile, row_max, taint);
  } else {
    masked ? score_tile_as<T, false, true>(g, factors, tile, row_max, taint)
           : score_tile_as<T, false, false>(g, factors, tile, row_max, taint);
  }
}

template <class T, bool Alibi, bool Masked>
bool support_tile_as(const TileGeometry& g, ScoreFactors<T> factors, const T* tau, T* tile) {
  using S = Simd<T>;
  const typename S::Vector iota = S::iota();
  typename S::Vector found{};
  for (int64_t r = 0; r < g.rows; ++r) {
    const T row_distance = static_cast<T>(g.first_distance + r);
    const typename S::Vector limit = S::all(static_cast<T>(row_limit(g, r)));
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      const typename S::Vector column = iota + static_cast<T>(c);
      T* const at = tile + r * kTile + c;
      typename S::Vector u =
          S::positive_part(score<T, Alibi>(S::load(at), column, row_distance, factors) - tau[r]);
      if (Masked) u = column < limit ? u : typename S::Vector{};
      found = u == typename S::Vector{} ? found : S::all(1);
      S::store(at, u);
    }
  }
  return S::largest(found) > 0;
}

template <class T>
bool support_tile(const TileGeometry& g, ScoreFactors<T> factors, const T* tau, T* tile) {
  const bool masked = has_missing_pairs(g);
  if (factors.slope != 0) {
    return masked ? support_tile_as<T, true, true>(g, factors, tau, tile)
                  : support_tile_as<T, true, false>(g, factors, tau, tile);
  }
  return masked ? support_tile_as<T, false, true>(g, factors, tau, tile)
                : support_tile_as<T, false, false>(g, factors, tau, tile);
}

// ---- powers of u ----

/// How u^r is computed: alpha = 1.5 (r = 2), alpha = 2 (r = 1), any other.
enum class Exponent { two, one, general };

inline Exponent exponent_kind(double r) {
  return r == 2.0 ? Exponent::two : r == 1.0 ? Exponent::one : Exponent::general;
}

/// w = u^(r-1) where u > 0, else 0 (NaN where u is NaN); p is w * u.
template <class T, Exponent E>
inline typename Simd<T>::Vector slope_weight(typename Simd<T>::Vector u, T r) {
  using S = Simd<T>;
  if (E == Exponent::two) return u;
  if (E == Exponent::one) return u > typename S::Vector{} ? S::all(1) : u;
  T lanes[S::kLanes];
  S::store(lanes, u == typename S::Vector{} ? S::all(1) : u);  // libmvec takes a slow path for 0
#pragma omp simd
  for (int i = 0; i < S::kLanes; ++i) lanes[i] = power(lanes[i], r - 1);
  return u == typename S::Vector{} ? u : S::load(lanes);
}

// ---- row thresholds ----

/// Sums over {w > lo} of a row, with u = w - lo.
template <class T>
struct RowSums {
  double count = 0;
  double slope = 0;           ///< sum u^(r-1)
  double total = 0;           ///< sum u^r
  T smallest = kInfinity<T>;  ///< smallest positive u
};

template <class T, Exponent E>
RowSums<T> row_sums(T r, const T* tiles, const T* tile_max, int64_t tile_count, T maximum, T lo) {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  RowSums<T> result;
  Vector smallest = S::all(kInfinity<T>);
  Vector count{}, slope{}, total{};
  constexpr int kTilesPerFlush = 8;  // short runs in T, totals in double: keeps fp32 sums exact to a few ulps
  int pending = 0;
  const auto flush = [&] {
    result.count += S::sum(count);
    result.slope += S::sum(slope);
    result.total += S::sum(total);
    count = slope = total = Vector{};
    pending = 0;
  };
  for (int64_t v = 0; v < tile_count; ++v) {
    if (tile_max[v * kTile] - maximum <= lo) continue;
    const T* z = tiles + v * kTile * kTile;
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      const Vector u = S::positive_part((S::load(z + c) - maximum) - lo);
      const Vector w = slope_weight<T, E>(u, r);
      slope += w;
      total += w * u;
      if (E != Exponent::one) count += u > Vector{} ? S::all(1) : Vector{};
      smallest = S::minimum(u > Vector{} ? u : S::all(kInfinity<T>), smallest);
    }
    if (++pending == kTilesPerFlush) flush();
  }
  flush();
  if (E == Exponent::one) result.count = result.slope;
  result.smallest = S::smallest(smallest);
  return result;
}

/// Newton's step on the r-norm of u minus 1. Like f = sum u^r - 1 the norm is convex and decreasing in tau,
/// so a step from any point ends at or left of the root; it is exact where all u are equal, and so needs
/// about half the steps of Newton on f when the support is wide.
template <Exponent E, class T>
inline double newton_step(const RowSums<T>& sums, double r) {
  if (E == Exponent::two) return (sums.total - __builtin_sqrt(sums.total)) / sums.slope;
  if (E == Exponent::one) return (sums.total - 1) / sums.slope;
  return (sums.total - __builtin_pow(sums.total, 1 - 1 / r)) / sums.slope;
}

/// The step to the root of sum over the current set of (w - tau)^r = 1, with the set held fixed; negative
/// infinity where there is none or no closed form. It is at or right of the true root (r = 2), so the set is
/// the support as soon as no element lies between.
template <Exponent E, class T>
inline double closed_form_step(const RowSums<T>& sums) {
  if (E == Exponent::one) return (sums.total - 1) / sums.count;
  const double discriminant = sums.slope * sums.slope - sums.count * (sums.total - 1);
  if (E != Exponent::two || !(discriminant >= 0)) return -kInfinity<double>;
  return (sums.total - 1) / (sums.slope + __builtin_sqrt(discriminant));
}

template <class T, Exponent E>
RowSolution<T> solve_row_as(double r, const T* tiles, const T* tile_max, int64_t tile_count) {
  T maximum = -kInfinity<T>;
  for (int64_t v = 0; v < tile_count; ++v) {
    maximum = tile_max[v * kTile] > maximum ? tile_max[v * kTile] : maximum;
  }
  if (!(maximum > -kInfinity<T>)) return {0, kInfinity<T>, 0};
  const T exponent = static_cast<T>(r);
  T lo = -1;
  for (;;) {
    const RowSums<T> sums = row_sums<T, E>(exponent, tiles, tile_max, tile_count, maximum, lo);
    const double fixed_support = closed_form_step<E>(sums);
    const double step = newton_step<E>(sums, r);
    const bool stable = E != Exponent::general && fixed_support > -1 && fixed_support < sums.smallest;
    // step is NaN where a score was not finite: the caller marks such rows.
    const bool stalled = !(step > 4 * kEpsilon<T>);
    if (!stable && !stalled) {
      lo = static_cast<T>(lo + step);
      continue;
    }
    const double last = fixed_support > -1 ? fixed_support : step;
    T threshold = static_cast<T>(lo + last);
    // Rounding of the sums at lo moves the root by about epsilon * total: one step from the root itself mends
    // it.
    if (sums.total > 2) {
      const RowSums<T> near = row_sums<T, E>(exponent, tiles, tile_max, tile_count, maximum, threshold);
      const double correction = newton_step<E>(near, r);
      threshold = static_cast<T>(threshold + correction);
    }
    return {maximum, threshold, sums.count};
  }
}

template <class T>
RowSolution<T> solve_row(double r, const T* tiles, const T* tile_max, int64_t tile_count) {
  switch (exponent_kind(r)) {
    case Exponent::two:
      return solve_row_as<T, Exponent::two>(r, tiles, tile_max, tile_count);
    case Exponent::one:
      return solve_row_as<T, Exponent::one>(r, tiles, tile_max, tile_count);
    default:
      return solve_row_as<T, Exponent::general>(r, tiles, tile_max, tile_count);
  }
}

// ---- weights and gradients ----

template <class T, Exponent E>
void weight_tile_as(T r, int64_t rows, const T* maximum, const T* threshold, T* tile) {
  using S = Simd<T>;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      T* const at = tile + row * kTile + c;
      const typename S::Vector u = S::positive_part((S::load(at) - maximum[row]) - threshold[row]);
      S::store(at, slope_weight<T, E>(u, r) * u);
    }
  }
}

template <class T>
void weight_tile(double exponent, int64_t rows, const T* maximum, const T* threshold, T* tile) {
  const T r = static_cast<T>(exponent);
  switch (exponent_kind(exponent)) {
    case Exponent::two:
      return weight_tile_as<T, Exponent::two>(r, rows, maximum, threshold, tile);
    case Exponent::one:
      return weight_tile_as<T, Exponent::one>(r, rows, maximum, threshold, tile);
    default:
      return weight_tile_as<T, Exponent::general>(r, rows, maximum, threshold, tile);
  }
}

template <class T, Exponent E>
void backward_sums_as(T r, int64_t rows, const T* u, const T* dp, double* w_sum, double* w_dp_sum) {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  for (int64_t row = 0; row < rows; ++row) {
    Vector sum{}, dp_sum{};
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      const Vector x = S::load(u + row * kTile + c);
      const Vector w = slope_weight<T, E>(x, r);
      sum += w;
      dp_sum += x == Vector{} ? Vector{} : w * S::load(dp + row * kTile + c);
    }
    w_sum[row] += S::sum(sum);
    w_dp_sum[row] += S::sum(dp_sum);
  }
}

template <class T>
void backward_sums(double exponent, int64_t rows, const T* u, const T* dp, double* w_sum, double* w_dp_sum) {
  const T r = static_cast<T>(exponent);
  switch (exponent_kind(exponent)) {
    case Exponent::two:
      return backward_sums_as<T, Exponent::two>(r, rows, u, dp, w_sum, w_dp_sum);
    case Exponent::one:
      return backward_sums_as<T, Exponent::one>(r, rows, u, dp, w_sum, w_dp_sum);
    default:
      return backward_sums_as<T, Exponent::general>(r, rows, u, dp, w_sum, w_dp_sum);
  }
}

template <class T, Exponent E>
void gradient_tile_as(T r, int64_t rows, T scale, const T* delta, T* u, T* dp) {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < kTile; c += S::kLanes) {
      const Vector x = S::load(u + row * kTile + c);
      const Vector w = slope_weight<T, E>(x, r);
      const Vector ds = scale * w * (S::load(dp + row * kTile + c) - delta[row]);
      S::store(u + row * kTile + c, w * x);
      S::store(dp + row * kTile + c, x == Vector{} ? Vector{} : ds);
    }
  }
}

template <class T>
void gradient_tile(double exponent, int64_t rows, T scale, const T* delta, T* u, T* dp) {
  const T r = static_cast<T>(exponent);
  switch (exponent_kind(exponent)) {
    case Exponent::two:
      return gradient_tile_as<T, Exponent::two>(r, rows, scale, delta, u, dp);
    case Exponent::one:
      return gradient_tile_as<T, Exponent::one>(r, rows, scale, delta, u, dp);
    default:
      return gradient_tile_as<T, Exponent::general>(r, rows, scale, delta, u, dp);
  }
}

template <class T>
constexpr Kernels<T> kTable = {multiply<T>,    square_sum<T>,   score_tile<T>,    solve_row<T>,
                               weight_tile<T>, support_tile<T>, backward_sums<T>, gradient_tile<T>};

}  // namespace

namespace ASPLASH_ISA {
const Kernels<float>& float_kernels() { return kTable<float>; }
const Kernels<double>& double_kernels() { return kTable<double>; }
}  // namespace ASPLASH_ISA

}  // namespace asplash::ops::cpu
