#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "asplash/checkpoint/checkpoint.h"
#include "asplash/data/loader.h"
#include "asplash/model/language_model.h"
#include "asplash/optim/adamw.h"
#include "asplash/train/guard.h"
#include "asplash/train/metrics.h"
#include "asplash/train/saver.h"
#include "asplash/train/setup.h"
#include "asplash/train/step_clock.h"

namespace asplash {
class Progress;
}

namespace asplash::train {

/// The loop: read, step, report, evaluate, save. Everything it is given must outlive it.
class Trainer {
 public:
  /// state: where training goes on. config_text is saved with each checkpoint.
  Trainer(const Setup& setup, const std::string& config_text, model::LanguageModel& model,
          optim::AdamW& optimizer, const checkpoint::TrainerState& state);
  ~Trainer();

  /// Trains to the last step, or to the end of the step in which a signal arrives (base/interrupt.h); either
  /// way the run folder then holds a checkpoint of the last step done. Throws asplash::Error, also where too
  /// many steps in a row were skipped, weights are not finite, or that checkpoint could not be written.
  void run();

  const checkpoint::TrainerState& state() const { return state_; }

 private:
  using Clock = std::chrono::steady_clock;

  /// A step whose numbers still are on the device.
  struct PendingStep {
    StepRecord record;
    at::Tensor numbers;
  };

  bool done() const;
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }
  std::vector<data::Batch> read();
  void step(const std::vector<data::Batch>& micro_batches);
  void report();
  /// Warns of a spike and of a skipped step; throws where training cannot go on.
  void judge(const StepRecord& record);
  /// True if the validation loss is the best yet.
  bool evaluate();
  void save();
  void complete(StepRecord& record, double milliseconds) const;
  /// Some steps of this run count zero tiles and support.
  bool has_statistics() const;

  const Setup& setup_;
  std::string config_text_;
  model::LanguageModel& model_;
  optim::AdamW& optimizer_;
  checkpoint::TrainerState state_;
  data::Loader loader_;
  BadStepGuard guard_;
  SpikeWatch spikes_;
  MetricsFile metrics_;
  Saver saver_;                         ///< after what it uses: it waits for its thread when it goes
  std::unique_ptr<Progress> progress_;  ///< on a terminal
  std::vector<PendingStep> pending_;
  StepClock clock_;
  int64_t saved_step_ = -1;
};

}  // namespace asplash::train
