#include "asplash/train/guard.h"

#include "asplash/base/error.h"
#include "asplash/base/log.h"

namespace asplash::train {

BadStepGuard::BadStepGuard(int64_t max_in_a_row, int64_t skipped_before)
    : max_in_a_row_(max_in_a_row), skipped_(skipped_before) {}

void BadStepGuard::observe(int64_t step, const data::Position& position, bool skipped, double loss,
                           double grad_norm) {
  if (!skipped) {
    in_a_row_ = 0;
    return;
  }
  ++skipped_;
  ++in_a_row_;
  const std::string where = str("step ", step, " (data from epoch ", position.epoch, ", sample ",
                                position.sample, "): loss ", loss, ", gradient norm ", grad_norm);
  if (in_a_row_ >= max_in_a_row_) {
    fail("training stopped: ", in_a_row_, " steps in a row without a finite loss and gradient, the last ",
         where, "; the weights are as after step ", step - in_a_row_,
         ". Lower optim.lr, look at the data there, or raise ", "train.max_skipped_in_a_row (", max_in_a_row_,
         ")");
  }
  log::warning(str("skipped ", where, "; weights and moments stay as they are (", in_a_row_, " in a row, ",
                   skipped_, " in all)"));
}

}  // namespace asplash::train
