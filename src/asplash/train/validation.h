#pragma once

#include <cstdint>

#include "asplash/data/dataset.h"
#include "asplash/model/language_model.h"
#include "asplash/ops/device.h"
#include "asplash/train/run_config.h"

namespace asplash::train {

struct ValidationResult {
  double loss = 0;  ///< sum of -log p over all targets, divided once by their number; nats
  int64_t target_tokens = 0;
};

/// Mean loss over the first windows of the data set, always the same ones: of the training context and
/// document mode, evaluate_tokens / context of them (at least one) or all there are. The size of a
/// micro-batch changes nothing but the model's rounding. Waits for the device once, at the end.
ValidationResult validate(model::LanguageModel& model, const data::TokenDataset& dataset,
                          const RunConfig& config, const ops::DeviceInfo& device);

}  // namespace asplash::train
