#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "asplash/data/loader.h"
#include "asplash/model/language_model.h"
#include "asplash/ops/device.h"
#include "asplash/optim/adamw.h"

namespace asplash::train {

/// What a step computed, in the order of the numbers that training_step() returns.
struct StepNumbers {
  double loss = 0;       ///< mean over the step's valid targets
  double grad_norm = 0;  ///< before clipping
  bool skipped = false;  ///< nothing was changed: loss or norm were not finite
  /// Attention statistics of the first micro-batch; 0 where not asked for or softmax.
  double zero_tiles = 0, tiles = 0, support = 0, rows = 0;
  /// Rows by the passes over their scores until the threshold was final: 1, 2, 3, more. 0 on the CPU.
  std::array<double, 4> rows_by_passes{};
};

/// One optimizer step: forward and backward of each micro-batch, the loss of all divided by the number of
/// valid targets of all, then the update. Waits neither for the device nor between micro-batches; returns the
/// numbers as an fp64 tensor on the device for read_numbers(). Throws asplash::Error if no target is valid.
at::Tensor training_step(model::LanguageModel& model, optim::AdamW& optimizer,
                         const std::vector<data::Batch>& micro_batches, const ops::DeviceInfo& device,
                         double lr, bool statistics);

/// Copies the numbers of several steps to the host: the one point where training waits for the device.
std::vector<StepNumbers> read_numbers(const std::vector<at::Tensor>& steps);

}  // namespace asplash::train
