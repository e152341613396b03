// The GPU's row thresholds against sorting.

#include "asplash/kernels/entmax_rows.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "ops/entmax_thresholds.h"

namespace asplash::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool has_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};

/// A copy of host values in device memory.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, std::max<size_t>(1, count_) * sizeof(T)), cudaSuccess);
    memory_.reset(memory);
    EXPECT_EQ(cudaMemcpy(memory, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  T* get() const { return static_cast<T*>(memory_.get()); }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), memory_.get(), count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  std::unique_ptr<void, Free> memory_;
};

struct Rows {
  int64_t rows, columns, stride;
  std::vector<int64_t> first, last;  ///< shared by rows in turn; empty: whole rows
};

template <class T>
struct Solved {
  std::vector<T> p, tau;
  std::vector<int32_t> support;
};

template <class T>
Solved<T> solve(const Rows& shape, const std::vector<T>& z, double alpha) {
  const DeviceArray<T> scores(z), tau(std::vector<T>(static_cast<size_t>(shape.rows), T{7}));
  const DeviceArray<int32_t> support(std::vector<int32_t>(static_cast<size_t>(shape.rows), -1));
  const DeviceArray<int64_t> first(shape.first), last(shape.last);
  kernels::EntmaxRowsParams params;
  params.scores = scores.get();
  params.double_precision = std::is_same_v<T, double>;
  params.rows = shape.rows;
  params.columns = shape.columns;
  params.row_stride = shape.stride;
  params.first = shape.first.empty() ? nullptr : first.get();
  params.last = shape.last.empty() ? nullptr : last.get();
  params.range_rows = shape.first.empty() ? 1 : static_cast<int64_t>(shape.first.size());
  params.exponent = alpha == 1.5 ? 2.0 : alpha == 2.0 ? 1.0 : 1 / (alpha - 1);
  params.tau = tau.get();
  params.support = support.get();
  EXPECT_EQ(kernels::entmax_rows(params, nullptr), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return {scores.host(), tau.host(), support.host()};
}

template <class T>
std::vector<T> normal(size_t count, double spread, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> distribution(0, spread);
  std::vector<T> z(count);
  for (T& x : z) x = static_cast<T>(distribution(random));
  return z;
}

/// Checks every row's tau, weights, mass and support.
template <class T>
void expect_exact(const Rows& shape, const std::vector<T>& z, double alpha, double tolerance) {
  const Solved<T> solved = solve(shape, z, alpha);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const size_t range = shape.first.empty() ? 0 : static_cast<size_t>(row) % shape.first.size();
    const int64_t first = shape.first.empty() ? 0 : shape.first[range];
    const int64_t last = shape.last.empty() ? shape.columns : shape.last[range];
    const auto at = z.begin() + row * shape.stride;
    const std::vector<double> visible =
        first < last ? std::vector<double>(at + first, at + last) : std::vector<double>();
    const double tau = sorted_threshold(visible, alpha);
    const auto index = static_cast<size_t>(row);
    if (visible.empty()) {
      EXPECT_EQ(solved.tau[index], kInfinity);
    } else {
      EXPECT_NEAR(solved.tau[index], tau, tolerance);
    }
    double mass = 0;
    int32_t support = 0;
    for (int64_t j = 0; j < shape.columns; ++j) {
      const double p = solved.p[static_cast<size_t>(row * shape.stride + j)];
      EXPECT_TRUE(p == 0 || (j >= first && j < last)) << "weight outside the range";
      mass += p;
      support += p > 0;
    }
    EXPECT_NEAR(mass, visible.empty() ? 0 : 1, tolerance * 20);
    if (alpha == 1.5 || alpha == 2.0) {
      EXPECT_NEAR(solved.support[index], support, tolerance < 1e-10 ? 0 : 1);
    }
  }
}

TEST(EntmaxRows, RefusesParametersOutOfRange) {
  kernels::EntmaxRowsParams params;
  params.rows = 1;
  params.columns = 8;
  params.row_stride = 7;
  EXPECT_EQ(kernels::entmax_rows(params, nullptr), cudaErrorInvalidValue) << "stride under columns";
  params.row_stride = 8;
  EXPECT_EQ(kernels::entmax_rows(params, nullptr), cudaErrorInvalidValue) << "no pointers";
  params.exponent = 0.5;
  EXPECT_EQ(kernels::entmax_rows(params, nullptr), cudaErrorInvalidValue) << "alpha above 2";
  params = {};
  EXPECT_EQ(kernels::entmax_rows(params, nullptr), cudaSuccess) << "nothing to do";
}

class EntmaxRowsGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }
};

TEST_F(EntmaxRowsGpu, AgreesWithSorting) {
  unsigned seed = 1;
  for (const double alpha : {1.05, 1.25, 1.5, 1.75, 2.0}) {
    for (const int64_t columns : {1, 31, 32, 33, 127, 128, 129, 1000, 1024, 1025, 5000}) {
      for (const double spread : {0.01, 0.3, 1.0, 4.0}) {
        SCOPED_TRACE("alpha " + std::to_string(alpha) + ", columns " + std::to_string(columns) + ", spread " +
                     std::to_string(spread));
        const Rows shape{5, columns, columns + 3, {}, {}};
        const auto count = static_cast<size_t>(shape.rows * shape.stride);
        expect_exact(shape, normal<double>(count, spread, ++seed), alpha, 1e-12);
        expect_exact(shape, normal<float>(count, spread, ++seed), alpha, 3e-6);
      }
    }
  }
}

TEST_F(EntmaxRowsGpu, KeepsToRanges) {
  const Rows shape{40, 200, 200, {0, 0, 10, 64, 199, 5}, {200, 1, 11, 64, 200, 190}};
  expect_exact(shape, normal<double>(40 * 200, 1, 2), 1.5, 1e-12);
  // What lies outside a range must not be looked at.
  std::vector<double> z = normal<double>(40 * 200, 1, 3);
  for (size_t row = 0; row < 40; ++row) {
    for (size_t j = 0; j < 200; ++j) {
      const auto column = static_cast<int64_t>(j);
      if (column < shape.first[row % 6] || column >= shape.last[row % 6]) z[row * 200 + j] = std::nan("");
    }
  }
  expect_exact(shape, z, 1.5, 1e-12);
}

TEST_F(EntmaxRowsGpu, EqualTiedDominantAndLargeScores) {
  const Rows shape{1, 1000, 1000, {}, {}};
  for (const double alpha : {1.25, 1.5, 2.0}) {
    const auto equal = solve(shape, std::vector<double>(1000, 3.25), alpha);
    EXPECT_NEAR(equal.tau[0], 3.25 - std::pow(1000.0, 1 - alpha), 1e-13);
    EXPECT_EQ(equal.support[0], 1000);
    std::vector<float> dominant = normal<float>(1000, 0.5, 4);
    dominant[777] = 40;
    EXPECT_EQ(solve(shape, dominant, alpha).p[777], 1.0F);
  }
  std::vector<double> tied(1000, -0.5);
  std::fill_n(tied.begin(), 4, 0.0);
  EXPECT_NEAR(solve(shape, tied, 1.5).tau[0], -0.5, 1e-14);
  std::vector<float> large = normal<float>(1000, 0.3, 5);
  for (float& x : large) x += 1e4F;
  double mass = 0;
  for (const float p : solve(shape, large, 1.5).p) mass += p;
  EXPECT_NEAR(mass, 1, 1e-6);
}

TEST_F(EntmaxRowsGpu, LongRowsStayExact) {
  const Rows shape{2, 100000, 100000, {}, {}};
  for (const double spread : {0.0, 0.003, 0.3}) {
    const auto solved = solve(shape, normal<float>(200000, spread, 6), 1.5);
    double mass = 0;
    for (const float p : solved.p) mass += p;
    EXPECT_NEAR(mass, 2, 1e-4) << "spread " << spread;
  }
}

TEST_F(EntmaxRowsGpu, NonFiniteScoresSpoilTheirRowOnly) {
  const Rows shape{6, 300, 300, {}, {}};
  std::vector<float> z = normal<float>(6 * 300, 1, 7);
  const auto clean = solve(shape, z, 1.5);
  z[1 * 300 + 5] = std::nanf("");
  z[3 * 300 + 299] = static_cast<float>(kInfinity);
  z[4 * 300] = static_cast<float>(-kInfinity);
  const auto solved = solve(shape, z, 1.5);
  for (size_t row = 0; row < 6; ++row) {
    const bool broken = row == 1 || row == 3 || row == 4;
    EXPECT_EQ(std::isnan(solved.tau[row]), broken);
    for (size_t j = 0; j < 300; ++j) {
      const float p = solved.p[row * 300 + j];
      EXPECT_TRUE(broken ? std::isnan(p) : p == clean.p[row * 300 + j]);
    }
  }
}

TEST_F(EntmaxRowsGpu, RepeatsBitwise) {
  const Rows shape{64, 3000, 3000, {}, {}};
  const auto z = normal<float>(64 * 3000, 1, 8);
  const auto first = solve(shape, z, 1.5);
  for (int repeat = 0; repeat < 50; ++repeat) {
    const auto again = solve(shape, z, 1.5);
    ASSERT_EQ(again.p, first.p);
    ASSERT_EQ(again.tau, first.tau);
  }
}

}  // namespace
}  // namespace asplash::test
