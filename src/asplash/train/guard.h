#pragma once

#include <cstdint>
#include <string>

#include "asplash/checkpoint/checkpoint.h"
#include "asplash/data/sampler.h"

namespace asplash::train {

/// "step 7 (data from epoch 0, sample 48)"; position: of the step's first sample.
std::string step_and_data(int64_t step, const data::Position& position);

/// Counts the steps that the optimizer skipped for a loss or gradient that was not finite, and stops training
/// when too many follow each other. (The skip itself is decided on the device, see optim::AdamW::step.)
class BadStepGuard {
 public:
  /// skipped_before, in_a_row_before: counted before the run was resumed.
  BadStepGuard(int64_t max_in_a_row, int64_t skipped_before, int64_t in_a_row_before = 0);

  /// To be called for each step in order; position: of the step's first sample. Warns of a skipped step;
  /// throws asplash::Error naming steps and data position when max_in_a_row steps in a row were skipped.
  void observe(int64_t step, const data::Position& position, bool skipped, double loss, double grad_norm);

  int64_t skipped_steps() const { return skipped_; }
  int64_t in_a_row() const { return in_a_row_; }

 private:
  int64_t max_in_a_row_;
  int64_t skipped_;
  int64_t in_a_row_;
};

/// Tells losses that lie far above those before: damaged data, or training about to diverge. A spike is
/// finite; clipping has already bounded what the step could do to the weights, so that it is only reported.
///
/// Level and deviation are exponential means (of 1 / kShare steps) of the loss and of its distance from the
/// level. A loss is a spike if at least kFirstSteps were seen and it lies more than `threshold` deviations
/// above the level, a deviation being at least kLeastDeviation nats. A spike enters the means only as far as
/// the threshold: one does not hide the next, and a loss that stays high becomes the level.
class SpikeWatch {
 public:
  static constexpr double kShare = 0.02;
  static constexpr int64_t kFirstSteps = 20;
  static constexpr double kLeastDeviation = 0.01;

  /// threshold 0: nothing is a spike. level: of before the run was resumed.
  SpikeWatch(double threshold, const checkpoint::LossLevel& level) : threshold_(threshold), level_(level) {}

  /// Takes the next step's loss; true for a spike. A loss that is not finite is the guard's matter: false,
  /// and not counted.
  bool observe(double loss);
  const checkpoint::LossLevel& level() const { return level_; }

 private:
  double threshold_;
  checkpoint::LossLevel level_;
};

}  // namespace asplash::train
