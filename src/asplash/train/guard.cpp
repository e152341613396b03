#include "asplash/train/guard.h"

#include <algorithm>
#include <cmath>

#include "asplash/base/error.h"
#include "asplash/base/log.h"

namespace asplash::train {

std::string step_and_data(int64_t step, const data::Position& position) {
  return str("step ", step, " (data from epoch ", position.epoch, ", sample ", position.sample, ")");
}

BadStepGuard::BadStepGuard(int64_t max_in_a_row, int64_t skipped_before, int64_t in_a_row_before)
    : max_in_a_row_(max_in_a_row), skipped_(skipped_before), in_a_row_(in_a_row_before) {}

void BadStepGuard::observe(int64_t step, const data::Position& position, bool skipped, double loss,
                           double grad_norm) {
  if (!skipped) {
    in_a_row_ = 0;
    return;
  }
  ++skipped_;
  ++in_a_row_;
  const std::string where =
      str(step_and_data(step, position), ": loss ", loss, ", gradient norm ", grad_norm);
  if (in_a_row_ >= max_in_a_row_) {
    fail("training stopped: ", in_a_row_, " steps in a row without a finite loss and gradient, the last ",
         where, "; the weights are as after step ", step - in_a_row_,
         ". Lower optim.lr, look at the data there, or raise ", "train.max_skipped_in_a_row (", max_in_a_row_,
         ")");
  }
  log::warning(str("skipped ", where, "; weights and moments stay as they are (", in_a_row_, " in a row, ",
                   skipped_, " in all)"));
}

bool SpikeWatch::observe(double loss) {
  if (!std::isfinite(loss)) return false;
  if (level_.steps == 0) level_.mean = loss;
  const double limit = level_.mean + threshold_ * std::max(level_.deviation, kLeastDeviation);
  const bool spike = threshold_ > 0 && level_.steps >= kFirstSteps && loss > limit;
  const double counted = spike ? limit : loss;
  ++level_.steps;
  // The first steps count alike, so that the level does not hang on the very first one.
  const double share = std::max(kShare, 1.0 / static_cast<double>(level_.steps));
  level_.deviation += share * (std::abs(counted - level_.mean) - level_.deviation);
  level_.mean += share * (counted - level_.mean);
  return spike;
}

}  // namespace asplash::train
