#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "asplash/data/sampler.h"

namespace asplash::train {

struct StepRecord {
  int64_t step = 0;
  double loss = 0;       ///< mean negative log-likelihood over the step's valid targets, nats
  double grad_norm = 0;  ///< before clipping
  double lr = 0;
  int64_t tokens = 0;  ///< trained on so far, this step included
  double tokens_per_second = 0;
  double step_ms = 0;
  double data_wait_ms = 0;
  data::Position position;  ///< of the step's first sample
  bool skipped = false;
  int64_t skipped_steps = 0;  ///< so far
  int64_t memory_bytes = 0;   ///< peak so far
  std::optional<double> mfu;  ///< share of the device's peak
  std::optional<double> zero_tile_share;
  std::optional<double> mean_support;  ///< keys with weight above 0, mean over the queries
};

struct EvaluationRecord {
  int64_t step = 0;
  double loss = 0;
  double perplexity = 0;
  int64_t target_tokens = 0;
  double seconds = 0;
  bool best = false;
};

/// metrics.jsonl: one JSON object a line. A number that is not finite becomes null.
class MetricsFile {
 public:
  /// Opens RUN/metrics.jsonl to append after step `last_step`: lines of later steps and a torn last line,
  /// left by a run that went on past the checkpoint it is now resumed from, are removed first.
  MetricsFile(const std::string& path, int64_t last_step);

  void write(const StepRecord& record);
  /// {"step", "event": "evaluation", "loss", "perplexity", ...}
  void write(const EvaluationRecord& record);

 private:
  void write_line(const std::string& line);

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace asplash::train
