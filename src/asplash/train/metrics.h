#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "asplash/data/sampler.h"
#include "asplash/train/run_config.h"

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
  bool spike = false;         ///< the loss lies far above those before (SpikeWatch)
  int64_t memory_bytes = 0;   ///< peak so far
  std::optional<double> mfu;  ///< share of the device's peak
  std::optional<double> zero_tile_share;
  std::optional<double> mean_support;  ///< keys with weight above 0, mean over the queries
  std::optional<double> mean_passes;   ///< refinement steps until a query's threshold is final (CUDA kernels)
};

struct EvaluationRecord {
  int64_t step = 0;
  double loss = 0;
  double perplexity = 0;
  int64_t target_tokens = 0;
  double seconds = 0;
  bool best = false;
};

/// The keys of metrics.jsonl that tell of the machine: time and memory. All others of a line are a function
/// of configuration, data and seed, also where the run was interrupted and resumed.
const std::vector<std::string>& measured_keys();

/// metrics.jsonl: one JSON object a line. A number that is not finite becomes null.
class MetricsFile {
 public:
  /// Opens RUN/metrics.jsonl to append after step `last_step`: lines of later steps and a torn last line,
  /// left by a run that went on past the checkpoint it is now resumed from, are removed first.
  /// on_failure: what happens where a line cannot be written (disk full). stop: asplash::Error. continue: one
  /// warning; the lines wait in memory until writing succeeds again, at most kMaxWaitingBytes of them.
  MetricsFile(const std::string& path, int64_t last_step, OnFailedWrite on_failure);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  void write(const StepRecord& record);
  /// {"step", "event": "evaluation", "loss", "perplexity", ...}
  void write(const EvaluationRecord& record);
  /// No line waits to be written (after one more attempt, if some did).
  bool is_complete();
  /// Brings what was written to the disk. May be called from another thread than write().
  void sync() const;
  /// Throws asplash::Error if lines still wait.
  void finish();

  static constexpr size_t kMaxWaitingBytes = 64 << 20;

 private:
  void write_line(const std::string& line);
  /// Writes what waits; returns 0 or the system's reason.
  int write_waiting();

  std::string path_;
  OnFailedWrite on_failure_;
  int fd_;
  std::string waiting_;  ///< not written yet; may begin within a line
  bool failing_ = false;
};

}  // namespace asplash::train
