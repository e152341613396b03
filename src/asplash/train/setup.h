#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "asplash/data/dataset.h"
#include "asplash/data/loader.h"
#include "asplash/ops/device.h"
#include "asplash/train/run_config.h"
#include "asplash/train/train.h"

namespace asplash::train {

/// What a run is made of before there is a model: the configuration with everything automatic decided, the
/// device, and the data.
struct Setup {
  RunConfig config;
  ops::DeviceInfo device;
  bool bf16 = false;
  std::optional<data::TokenDataset> train;  ///< empty only in a dry run without data
  std::optional<data::TokenDataset> validation;
  std::string data_problem;  ///< why `train` is empty
  /// Says which tokens `train` holds, wherever they lie: XXH3-128 of its shards' sizes and checksums.
  std::string data_identity;
  std::string command;  ///< "asplash-train --config ... --set ..."

  const char* precision() const { return bf16 ? "bf16" : "fp32"; }
  /// Sequences that an epoch of the training data holds; 0 without data.
  int64_t samples_per_epoch() const;
};

/// How training reads its data.
data::LoaderOptions loader_options(const RunConfig& config);

/// Reads and checks the configuration alone.
RunConfig load_config(const TrainOptions& options);

/// Chooses the device, opens the data and checks that configuration and data fit. Throws asplash::Error; in a
/// dry run missing training data is only noted if model.vocab_size says what it would.
Setup prepare(const TrainOptions& options, const RunConfig& config);

/// The configuration as YAML under a comment that says which program, device, date and command it is of.
/// load() reads it back.
std::string resolved_config_text(const Setup& setup);

}  // namespace asplash::train
