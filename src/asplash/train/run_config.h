#pragma once

#include <cstdint>
#include <string>

#include "asplash/config/fields.h"
#include "asplash/model/model_config.h"
#include "asplash/optim/optim_config.h"

namespace asplash::train {

enum class Precision { automatic, fp32, bf16 };
enum class DocumentMode { stream, packed };
enum class OnFailedWrite { go_on, stop };

struct DataConfig {
  std::string train;       ///< manifest (file or folder) to train on
  std::string validation;  ///< manifest for the evaluations while training; empty: none
  DocumentMode documents = DocumentMode::stream;
  int64_t context = 512;  ///< tokens of a sequence
  bool shuffle = true;
  int64_t prefetch = 4;  ///< micro-batches read ahead

  void describe(config::Fields& f);
};

struct TrainConfig {
  std::string output = "runs/default";  ///< run folder
  std::string initial_weights;          ///< checkpoint that a new run starts from; empty: random weights
  int64_t steps = 1000;
  int64_t tokens_per_step = 32768;  ///< over all ranks and micro-batches
  int64_t micro_batch = 0;          ///< sequences at a time; 0: as many as tokens_per_step holds
  uint64_t seed_value() const { return static_cast<uint64_t>(seed); }
  int64_t seed = 1;
  std::string device = "auto";
  int64_t threads = 0;
  Precision precision = Precision::automatic;  ///< automatic: bf16 on a GPU, fp32 on the CPU
  bool deterministic = false;
  int64_t max_skipped_in_a_row = 5;  ///< bad steps in a row before training stops
  double spike_threshold = 8;        ///< deviations above the level of the loss; see SpikeWatch
  int64_t log_every = 1;
  int64_t log_mebibytes = 16;        ///< of train.log, before it is renamed to train.1.log; 0: no limit
  int64_t statistics_every = 10;     ///< steps between attention statistics (entmax)
  int64_t evaluate_every = 0;        ///< 0: only at the end
  int64_t evaluate_tokens = 131072;  ///< at most this many target tokens an evaluation
  int64_t checkpoint_every = 0;      ///< 0: only at the end
  bool checkpoint_at_start = false;  ///< also step 0, the untrained weights
  int64_t keep_checkpoints = 2;
  bool keep_best = true;  ///< also the one of the lowest validation loss; saves one at each new lowest
  OnFailedWrite on_failed_write = OnFailedWrite::go_on;

  void describe(config::Fields& f);
};

/// Everything a YAML file of asplash-train may say.
struct RunConfig {
  TrainConfig train;
  DataConfig data;
  model::ModelConfig model;
  optim::OptimConfig optim;

  void describe(config::Fields& f);

  int64_t sequences_per_step() const { return train.tokens_per_step / data.context; }
  int64_t micro_batch() const { return train.micro_batch ? train.micro_batch : sequences_per_step(); }
  int64_t accumulation() const { return sequences_per_step() / micro_batch(); }
};

}  // namespace asplash::train
