#include "asplash/optim/schedule.h"

#include <algorithm>
#include <cmath>

namespace asplash::optim {
namespace {

/// 1 where `step` = first, 0 where `step` = last, straight between.
double remaining(int64_t step, int64_t first, int64_t last) {
  return static_cast<double>(last - step) / static_cast<double>(last - first);
}

}  // namespace

double learning_rate(const OptimConfig& config, int64_t step, int64_t steps) {
  const int64_t peak_step = std::clamp<int64_t>(config.warmup_steps, 1, steps);
  step = std::clamp<int64_t>(step, 1, steps);
  if (step <= peak_step) {
    return config.lr * static_cast<double>(step) /
           static_cast<double>(std::max<int64_t>(config.warmup_steps, 1));
  }
  const double floor = config.lr * config.lr_min_ratio;
  const auto between = [&](double share) { return floor + (config.lr - floor) * share; };
  switch (config.schedule) {
    case Schedule::cosine: {
      const double pi = std::acos(-1.0);
      return between(0.5 * (1.0 + std::cos(pi * (1.0 - remaining(step, peak_step, steps)))));
    }
    case Schedule::linear:
      return between(remaining(step, peak_step, steps));
    case Schedule::warmup_stable_decay: {
      const auto decay_steps =
          static_cast<int64_t>(std::llround(config.decay_share * static_cast<double>(steps)));
      const int64_t decay_from = std::clamp<int64_t>(steps - decay_steps, peak_step, steps - 1);
      return step <= decay_from ? config.lr : between(remaining(step, decay_from, steps));
    }
    case Schedule::constant:
      return config.lr;
  }
  return config.lr;
}

}  // namespace asplash::optim
