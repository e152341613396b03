#include "asplash/train/trainer.h"

#include <ATen/ATen.h>

#include "asplash/base/error.h"
#include "asplash/base/interrupt.h"
#include "asplash/base/log.h"
#include "asplash/base/progress.h"
#include "asplash/base/terminal.h"
#include "asplash/checkpoint/finite.h"
#include "asplash/checkpoint/hf_config.h"
#include "asplash/optim/schedule.h"
#include "asplash/train/batch_transfer.h"
#include "asplash/train/console.h"
#include "asplash/train/training_step.h"
#include "asplash/train/validation.h"

namespace asplash::train {
namespace {

std::unique_ptr<Progress> make_progress(int64_t step, int64_t steps) {
  if (!terminal::is_interactive()) return nullptr;  // the step lines say it
  Progress::Options options;
  options.label = "train";
  options.unit = "steps";
  options.total = static_cast<double>(steps);
  options.start = static_cast<double>(step);
  return std::make_unique<Progress>(options);
}

/// Nothing where passes were not counted.
std::optional<double> mean_passes(const StepNumbers& numbers) {
  double rows = 0, passes = 0;
  for (size_t i = 0; i < numbers.rows_by_passes.size(); ++i) {
    rows += numbers.rows_by_passes[i];
    passes += static_cast<double>(i + 1) * numbers.rows_by_passes[i];
  }
  return rows > 0 ? std::optional(passes / rows) : std::nullopt;
}

}  // namespace

Trainer::Trainer(const Setup& setup, const std::string& config_text, model::LanguageModel& model,
                 optim::AdamW& optimizer, const checkpoint::TrainerState& state)
    : setup_(setup),
      config_text_(config_text),
      model_(model),
      optimizer_(optimizer),
      state_(state),
      loader_(*setup.train, loader_options(setup.config), state.position, host_allocator(setup.device)),
      guard_(setup.config.train.max_skipped_in_a_row, state.skipped_steps, state.skipped_in_a_row),
      spikes_(setup.config.train.spike_threshold, state.loss_level),
      metrics_(setup.config.train.output + "/metrics.jsonl", state.step, setup.config.train.on_failed_write),
      saver_(setup, metrics_),
      progress_(make_progress(state.step, setup.config.train.steps)),
      clock_(setup.device) {}

Trainer::~Trainer() = default;

bool Trainer::done() const { return state_.step >= setup_.config.train.steps || interrupted(); }

void Trainer::run() {
  const TrainConfig& train = setup_.config.train;
  if (state_.step == 0 && train.checkpoint_at_start) save();
  clock_.restart();
  while (!done()) {
    step(read());
    // The last evaluation comes before the last save, so that a run ended between the two repeats it.
    const bool evaluation_due = is_due(train.evaluate_every) || state_.step >= train.steps;
    const bool checkpoint_due = is_due(train.checkpoint_every);
    if (is_due(train.log_every) || evaluation_due || checkpoint_due) report();
    const bool best = evaluation_due && evaluate();
    if (checkpoint_due || (best && train.keep_best)) save();
    saver_.check();
  }
  report();
  save();
  saver_.finish();
  metrics_.finish();
}

std::vector<data::Batch> Trainer::read() {
  std::vector<data::Batch> micro_batches;
  try {
    for (int64_t i = 0; i < setup_.config.accumulation(); ++i) micro_batches.push_back(loader_.next());
  } catch (const Error& error) {
    fail("training stopped at ", step_and_data(state_.step + 1, state_.position), ": ", error.what());
  }
  return micro_batches;
}

void Trainer::step(const std::vector<data::Batch>& micro_batches) {
  const RunConfig& config = setup_.config;
  ++state_.step;
  state_.tokens += config.train.tokens_per_step;
  state_.position = loader_.position();

  PendingStep pending;
  pending.record.step = state_.step;
  pending.record.tokens = state_.tokens;
  pending.record.position = micro_batches.front().position;
  pending.record.lr = optim::learning_rate(config.optim, state_.step, config.train.steps);
  for (const data::Batch& batch : micro_batches) pending.record.data_wait_ms += batch.wait_ms;
  const bool statistics = has_statistics() && (is_due(config.train.statistics_every) || state_.step == 1);
  pending.numbers =
      training_step(model_, optimizer_, micro_batches, setup_.device, pending.record.lr, statistics);
  clock_.step_handed_over();
  pending_.push_back(std::move(pending));
}

bool Trainer::has_statistics() const {
  const RunConfig& config = setup_.config;
  return config.model.attention.function == model::AttentionFunction::entmax &&
         config.train.statistics_every > 0;
}

void Trainer::report() {
  if (pending_.empty()) return;
  std::vector<at::Tensor> on_device;
  for (const PendingStep& pending : pending_) on_device.push_back(pending.numbers);
  const std::vector<StepNumbers> numbers = read_numbers(on_device);
  const std::vector<double> milliseconds = clock_.take();
  for (size_t i = 0; i < numbers.size(); ++i) {
    StepRecord& record = pending_[i].record;
    record.loss = numbers[i].loss;
    record.grad_norm = numbers[i].grad_norm;
    record.skipped = numbers[i].skipped;
    if (numbers[i].rows > 0) {
      record.zero_tile_share = numbers[i].zero_tiles / std::max(numbers[i].tiles, 1.0);
      record.mean_support = numbers[i].support / numbers[i].rows;
      record.mean_passes = mean_passes(numbers[i]);
    }
    complete(record, milliseconds.at(i));
    record.spike = spikes_.observe(record.loss);
    metrics_.write(record);
    if (i + 1 == numbers.size()) log::info(step_line(record, setup_.config.train.steps, has_statistics()));
    judge(record);
  }
  state_.skipped_steps = guard_.skipped_steps();
  state_.skipped_in_a_row = guard_.in_a_row();
  state_.loss_level = spikes_.level();
  pending_.clear();
  if (progress_) progress_->update(static_cast<double>(state_.step));
}

void Trainer::judge(const StepRecord& record) {
  const std::string where = step_and_data(record.step, record.position);
  if (record.spike) {
    const checkpoint::LossLevel& level = spikes_.level();
    log::warning(str("loss spike at ", where, ": loss ", record.loss, ", the steps before had about ",
                     level.mean, " +- ", level.deviation, "; gradient norm ", record.grad_norm));
  }
  if (record.skipped) {
    checkpoint::NamedTensors weights;
    for (const auto& [name, value] : model_.parameters()) weights.emplace_back(name, value);
    const std::string damage = checkpoint::find_not_finite(weights);
    if (!damage.empty()) {
      fail("training stopped at ", where, ": loss ", record.loss, ", since the weight ", damage,
           "; nothing of this was saved: the same command goes on from the newest checkpoint");
    }
  }
  guard_.observe(record.step, record.position, record.skipped, record.loss, record.grad_norm);
}

void Trainer::complete(StepRecord& record, double milliseconds) const {
  const RunConfig& config = setup_.config;
  record.step_ms = milliseconds;
  record.tokens_per_second =
      static_cast<double>(config.train.tokens_per_step) / std::max(milliseconds, 1e-6) * 1e3;
  record.skipped_steps = guard_.skipped_steps() + (record.skipped ? 1 : 0);
  record.memory_bytes = ops::peak_memory_bytes(setup_.device);
  if (setup_.device.peak_bf16_flops > 0 && setup_.bf16) {
    record.mfu = model::train_flops_per_token(config.model, config.data.context) * record.tokens_per_second /
                 setup_.device.peak_bf16_flops;
  }
}

bool Trainer::evaluate() {
  if (!setup_.validation) return false;
  const Clock::time_point start = Clock::now();
  const ValidationResult result = validate(model_, *setup_.validation, setup_.config, setup_.device);
  EvaluationRecord record;
  record.step = state_.step;
  record.loss = result.loss;
  record.perplexity = std::exp(result.loss);
  record.target_tokens = result.target_tokens;
  record.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const auto best = state_.best_validation_loss;
  record.best = std::isfinite(result.loss) && (!best || result.loss < *best);
  if (record.best) {
    state_.best_validation_loss = result.loss;
    state_.best_step = state_.step;
  }
  metrics_.write(record);
  log::info(evaluation_line(record));
  clock_.restart();
  return record.best;
}

void Trainer::save() {
  if (saved_step_ == state_.step) return;
  const RunConfig& config = setup_.config;
  const data::Manifest& data = setup_.train->manifest();
  checkpoint::Contents contents;
  for (const auto& [name, value] : model_.parameters()) contents.model.emplace_back(name, value);
  contents.optimizer = optimizer_.state();
  contents.state = state_;
  contents.config_yaml = config_text_;
  contents.config_json =
      checkpoint::hugging_face_config(config.model, config.data.context, data.bos_id, data.eos_id);
  contents.tokenizer_file = data.tokenizer_file;
  saver_.save(std::move(contents));
  saved_step_ = state_.step;
  clock_.restart();
}

}  // namespace asplash::train
