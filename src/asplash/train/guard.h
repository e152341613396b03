#pragma once

#include <cstdint>

#include "asplash/data/sampler.h"

namespace asplash::train {

/// Counts the steps that the optimizer skipped for a loss or gradient that was not finite, and stops training
/// when too many follow each other. (The skip itself is decided on the device, see optim::AdamW::step.)
class BadStepGuard {
 public:
  BadStepGuard(int64_t max_in_a_row, int64_t skipped_before);

  /// To be called for each step in order; position: of the step's first sample. Warns of a skipped step;
  /// throws asplash::Error naming steps and data position when max_in_a_row steps in a row were skipped.
  void observe(int64_t step, const data::Position& position, bool skipped, double loss, double grad_norm);

  int64_t skipped_steps() const { return skipped_; }

 private:
  int64_t max_in_a_row_;
  int64_t skipped_;
  int64_t in_a_row_ = 0;
};

}  // namespace asplash::train
