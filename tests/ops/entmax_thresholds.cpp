#include "ops/entmax_thresholds.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace asplash::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double sparsemax_threshold(const std::vector<double>& descending) {
  double sum = 0, tau = kInfinity;
  const double top = descending.front();
  for (size_t k = 0; k < descending.size(); ++k) {
    sum += descending[k] - top;
    const double candidate = (sum - 1) / static_cast<double>(k + 1);
    if (descending[k] - top > candidate) tau = candidate + top;
  }
  return tau;
}

double entmax15_threshold(const std::vector<double>& descending) {
  double tau = kInfinity, sum = 0, squares = 0;
  const double top = descending.front();
  for (size_t k = 0; k < descending.size(); ++k) {
    const double shifted = descending[k] - top;
    sum += shifted;
    squares += shifted * shifted;
    const double n = static_cast<double>(k + 1), mean = sum / n;
    const double discriminant = (1 - (squares - n * mean * mean)) / n;
    if (discriminant < 0) break;
    const double candidate = mean - std::sqrt(discriminant);
    if (candidate > shifted) break;
    tau = candidate + top;
  }
  return tau;
}

double bisected_threshold(const std::vector<double>& z, double alpha) {
  const double top = z.front(), r = 1 / (alpha - 1);
  double low = -1, high = 0;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    double sum = 0;
    for (const double x : z) sum += x - top > middle ? std::pow(x - top - middle, r) : 0.0;
    (sum > 1 ? low : high) = middle;
  }
  return top + (low + high) / 2;
}

}  // namespace

double sorted_threshold(std::vector<double> z, double alpha) {
  if (z.empty()) return kInfinity;
  std::sort(z.begin(), z.end(), std::greater<>());
  if (alpha == 2.0) return sparsemax_threshold(z);
  if (alpha == 1.5) return entmax15_threshold(z);
  return bisected_threshold(z, alpha);
}

}  // namespace asplash::test
