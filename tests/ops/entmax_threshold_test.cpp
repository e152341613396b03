// Row thresholds: the solver of every instruction set against sorting, and the facts that the GPU kernels
// will build on (../shared/design/entmax_attention.md, section 1).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "asplash/ops/entmax_cpu_dispatch.h"
#include "ops/entmax_thresholds.h"

namespace asplash::test {
namespace {

using ops::cpu::kTile;

struct Solved {
  double tau = 0;
  double support = 0;
  double mass = 0;  ///< sum of the weights that weight_tile makes of it
  std::vector<double> weights;
};

/// Runs one row through a solver, as row 0 of as many tiles as it needs.
template <class T>
Solved solve(const ops::cpu::Kernels<T>& kernels, const std::vector<double>& z, double alpha) {
  const auto tiles = static_cast<int64_t>((z.size() + kTile - 1) / kTile);
  std::vector<T> scores(static_cast<size_t>(tiles * kTile * kTile), -std::numeric_limits<T>::infinity());
  std::vector<T> tile_max(static_cast<size_t>(tiles * kTile), -std::numeric_limits<T>::infinity());
  for (size_t j = 0; j < z.size(); ++j) {
    const size_t tile = j / kTile;
    scores[tile * kTile * kTile + j % kTile] = static_cast<T>(z[j]);
    tile_max[tile * kTile] = std::max(tile_max[tile * kTile], static_cast<T>(z[j]));
  }
  const double exponent = alpha == 1.5 ? 2.0 : alpha == 2.0 ? 1.0 : 1 / (alpha - 1);
  const auto solution = kernels.solve_row(exponent, scores.data(), tile_max.data(), tiles);
  Solved result{static_cast<double>(solution.maximum) + static_cast<double>(solution.threshold),
                solution.support,
                0,
                {}};
  for (int64_t v = 0; v < tiles; ++v) {
    T* tile = scores.data() + v * kTile * kTile;
    kernels.weight_tile(exponent, 1, &solution.maximum, &solution.threshold, tile);
    result.weights.insert(result.weights.end(), tile, tile + kTile);
  }
  result.weights.resize(z.size());
  result.mass = std::accumulate(result.weights.begin(), result.weights.end(), 0.0);
  return result;
}

std::vector<double> normal(std::mt19937_64& random, size_t n, double spread) {
  std::normal_distribution<double> distribution(0, spread);
  std::vector<double> z(n);
  for (double& x : z) x = distribution(random);
  return z;
}

double largest(const std::vector<double>& z) { return *std::max_element(z.begin(), z.end()); }

double mass(const std::vector<double>& z, double tau, double exponent) {
  double sum = 0;
  for (const double x : z) sum += x > tau ? std::pow(x - tau, exponent) : 0.0;
  return sum;
}

size_t support(const std::vector<double>& z, double tau) {
  return static_cast<size_t>(std::count_if(z.begin(), z.end(), [&](double x) { return x > tau; }));
}

/// Calls check(name, kernels<double>, kernels<float>) for every instruction set of this processor.
template <class F>
void for_each_instruction_set(F check) {
  const auto doubles = ops::cpu::all_kernels<double>();
  const auto floats = ops::cpu::all_kernels<float>();
  for (size_t i = 0; i < doubles.size(); ++i) {
    SCOPED_TRACE(doubles[i].name);
    check(*doubles[i].kernels, *floats[i].kernels);
  }
}

TEST(EntmaxThreshold, AgreesWithSorting) {
  for_each_instruction_set([](const auto& doubles, const auto& floats) {
    std::mt19937_64 random(1);
    for (const double alpha : {1.0001, 1.05, 1.25, 1.5, 1.75, 2.0}) {
      for (const size_t n : {1u, 2u, 63u, 64u, 65u, 127u, 129u, 191u, 193u, 1000u}) {
        for (const double spread : {0.01, 0.3, 1.0, 4.0}) {
          SCOPED_TRACE("alpha " + std::to_string(alpha) + ", n " + std::to_string(n) + ", spread " +
                       std::to_string(spread));
          const std::vector<double> z = normal(random, n, spread);
          const double tau = sorted_threshold(z, alpha);
          const Solved exact = solve(doubles, z, alpha);
          EXPECT_NEAR(exact.tau, tau, 1e-12);
          EXPECT_NEAR(exact.mass, 1, alpha < 1.01 ? 1e-9 : 1e-12);
          if (alpha == 1.5 || alpha == 2.0) {
            EXPECT_EQ(exact.support, static_cast<double>(support(z, tau)));
          }
          const Solved single = solve(floats, z, alpha);
          EXPECT_NEAR(single.tau, tau, 2e-6);
          EXPECT_NEAR(single.mass, 1, alpha < 1.01 ? 1e-2 : 2e-5);
        }
      }
    }
  });
}

TEST(EntmaxThreshold, IsExactInFloatOnLongNearlyUniformRows) {
  for_each_instruction_set([](const auto&, const auto& floats) {
    std::mt19937_64 random(2);
    for (const size_t n : {4096u, 16384u, 65536u}) {
      for (const double spread : {0.0, 1e-4, 0.003, 0.1}) {
        EXPECT_NEAR(solve(floats, normal(random, n, spread), 1.5).mass, 1, 2e-5)
            << n << " keys, spread " << spread;
      }
    }
  });
}

TEST(EntmaxThreshold, EqualScoresShareTheMass) {
  for_each_instruction_set([](const auto& doubles, const auto&) {
    for (const double alpha : {1.1, 1.25, 1.5, 2.0}) {
      for (const size_t n : {1u, 7u, 64u, 1000u}) {
        const Solved solved = solve(doubles, std::vector<double>(n, 3.25), alpha);
        EXPECT_NEAR(solved.tau, 3.25 - std::pow(static_cast<double>(n), 1 - alpha), 1e-13)
            << alpha << " " << n;
        EXPECT_EQ(solved.support, static_cast<double>(n));
      }
    }
  });
}

TEST(EntmaxThreshold, OneDominantKeyTakesAll) {
  for_each_instruction_set([](const auto& doubles, const auto& floats) {
    std::mt19937_64 random(3);
    std::vector<double> z = normal(random, 500, 0.5);
    z[300] = 40;
    for (const double alpha : {1.25, 1.5, 1.75, 2.0}) {
      EXPECT_EQ(solve(doubles, z, alpha).tau, 39.0);
      EXPECT_EQ(solve(floats, z, alpha).weights[300], 1.0);
      EXPECT_EQ(solve(floats, z, alpha).support, 1.0);
    }
  });
}

TEST(EntmaxThreshold, TiesAtTheThresholdGetNothingAndEnd) {
  for_each_instruction_set([](const auto& doubles, const auto& floats) {
    // {0} alone has tau = -1; {0, 0} has tau = -1/sqrt(2) and -1/2: every further score lies exactly there.
    for (const double alpha : {1.5, 2.0}) {
      for (const size_t tops : {1u, 2u, 4u, 9u}) {
        const double tau = -std::pow(static_cast<double>(tops), 1 - alpha);
        std::vector<double> z(tops + 200, tau);
        std::fill_n(z.begin(), tops, 0.0);
        EXPECT_NEAR(solve(doubles, z, alpha).tau, tau, 1e-14);
        EXPECT_NEAR(solve(doubles, z, alpha).mass, 1, 1e-13);
        EXPECT_NEAR(solve(floats, z, alpha).tau, tau, 3e-7);
      }
    }
  });
}

TEST(EntmaxThreshold, OrderOfTheKeysDoesNotMatter) {
  for_each_instruction_set([](const auto& doubles, const auto&) {
    std::mt19937_64 random(4);
    for (const double alpha : {1.25, 1.5, 2.0}) {
      std::vector<double> z = normal(random, 777, 1);
      const double tau = solve(doubles, z, alpha).tau;
      std::sort(z.begin(), z.end());
      EXPECT_NEAR(solve(doubles, z, alpha).tau, tau, 1e-14) << "ascending";
      std::reverse(z.begin(), z.end());
      EXPECT_NEAR(solve(doubles, z, alpha).tau, tau, 1e-14) << "descending";
    }
  });
}

TEST(EntmaxThreshold, LargeScoresLoseNothing) {
  for_each_instruction_set([](const auto& doubles, const auto& floats) {
    std::mt19937_64 random(5);
    for (const double shift : {-1e4, -1e3, 1e3, 1e4}) {
      std::vector<double> z = normal(random, 300, 0.3);
      const double tau = solve(doubles, z, 1.5).tau;
      for (double& x : z) x += shift;
      EXPECT_NEAR(solve(doubles, z, 1.5).tau - shift, tau, 1e-11);
      EXPECT_NEAR(solve(floats, z, 1.5).mass, 1, 1e-6) << "differences of large scores are exact";
    }
    EXPECT_NEAR(solve(floats, normal(random, 300, 3e3), 1.5).mass, 1, 1e-6);
  });
}

// The bounds below are checked against sorting alone: they are what makes scans, histograms and refinements
// right.

TEST(EntmaxFacts, ThresholdLiesWithinItsBounds) {
  std::mt19937_64 random(6);
  for (int trial = 0; trial < 200; ++trial) {
    const double alpha = std::vector<double>{1.1, 1.25, 1.5, 2.0}[static_cast<size_t>(trial % 4)];
    const std::vector<double> z =
        normal(random, 1 + random() % 300, std::exp(static_cast<double>(trial % 7) - 4));
    const double tau = sorted_threshold(z, alpha), m = largest(z);
    EXPECT_GE(tau, m - 1 - 1e-14);
    EXPECT_LE(tau, m - std::pow(static_cast<double>(z.size()), 1 - alpha) + 1e-14);
  }
}

TEST(EntmaxFacts, SubsetsGiveLowerBounds) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<double> z = normal(random, 256, std::exp(static_cast<double>(trial % 6) - 4));
    const double tau = sorted_threshold(z, 1.5);
    std::vector<double> sample;
    for (const double x : z) {
      if (random() % 3 == 0) sample.push_back(x);
    }
    sample.push_back(z[0]);
    EXPECT_LE(sorted_threshold(sample, 1.5), tau + 1e-14);
    std::vector<double> block_maxima;
    for (auto block = z.begin(); block != z.end(); block += 16)
      block_maxima.push_back(*std::max_element(block, block + 16));
    EXPECT_LE(sorted_threshold(block_maxima, 1.5), tau + 1e-14);
  }
}

TEST(EntmaxFacts, HistogramIsOffByLessThanABin) {
  std::mt19937_64 random(8);
  for (const double bin : {1.0 / 8, 1.0 / 64}) {
    for (int trial = 0; trial < 200; ++trial) {
      const std::vector<double> z = normal(random, 256, std::exp(static_cast<double>(trial % 6) - 4));
      const double tau = sorted_threshold(z, 1.5), m = largest(z);
      std::vector<double> binned(z);
      for (double& x : binned) x = x == m ? m : std::min(m, std::floor(x / bin) * bin);
      const double tau_h = sorted_threshold(binned, 1.5);
      EXPECT_LE(tau_h, tau + 1e-14);
      EXPECT_LE(tau, tau_h + bin + 1e-14);
    }
  }
}

TEST(EntmaxFacts, NewtonFromTheLeftStaysLeftWithinItsErrorBound) {
  std::mt19937_64 random(9);
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<double> z = normal(random, 400, std::exp(static_cast<double>(trial % 6) - 4));
    const double tau = sorted_threshold(z, 1.5);
    double at = largest(z) - 1;
    for (int step = 0; step < 12; ++step) {
      double s1 = 0, s2 = 0;
      for (const double x : z) {
        const double u = std::max(0.0, x - at);
        s1 += u;
        s2 += u * u;
      }
      const double count = static_cast<double>(support(z, at));
      const double error = tau - at;
      const double next = at + (s2 - 1) / (2 * s1);
      ASSERT_GE(s1, 1 - 1e-12);
      ASSERT_LE(next, tau + 1e-13) << "Newton's step passed the root";
      ASSERT_LE(tau - next, count * error * error / (2 * s1) + 1e-13);
      const double norm_step = at + (s2 - std::sqrt(s2)) / s1;
      ASSERT_LE(norm_step, tau + 1e-13) << "the step on the 2-norm passed the root";
      ASSERT_GE(norm_step, next - 1e-13) << "the step on the 2-norm is the longer one";
      const double discriminant = s1 * s1 - count * (s2 - 1);
      if (discriminant >= 0) {
        ASSERT_GE(at + (s1 - std::sqrt(discriminant)) / count, tau - 1e-13)
            << "the closed form is an upper bound";
      }
      at = next;
    }
  }
}

TEST(EntmaxFacts, StepsFromAHistogramAreFewAndBounded) {
  // From an error e0 the bound e' <= c e^2 with c = n_k / (2 S1_k) <= n_k / 2 gives the number of steps to
  // 1e-6.
  std::mt19937_64 random(10);
  for (const double spread : {0.05, 0.3, 1.0, 3.0}) {
    const std::vector<double> z = normal(random, 4096, spread);
    const double tau = sorted_threshold(z, 1.5);
    double at = tau - 1.0 / 64, bound = 1.0 / 64;
    int steps = 0;
    while (bound > 1e-6) {
      double s1 = 0;
      for (const double x : z) s1 += std::max(0.0, x - at);
      const double f = mass(z, at, 2) - 1;
      bound = std::min(bound, static_cast<double>(support(z, at)) * bound * bound / (2 * s1));
      at += f / (2 * s1);
      ASSERT_LE(tau - at, bound + 1e-13);
      ASSERT_LE(++steps, 8);
    }
  }
}

}  // namespace
}  // namespace asplash::test
