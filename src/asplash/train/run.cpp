#include <ATen/ATen.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/interrupt.h"
#include "asplash/base/log.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/config/config.h"
#include "asplash/train/initial_weights.h"
#include "asplash/train/resume.h"
#include "asplash/train/run_folder.h"
#include "asplash/train/run_lock.h"
#include "asplash/train/setup.h"
#include "asplash/train/tables.h"
#include "asplash/train/train.h"
#include "asplash/train/trainer.h"

namespace asplash::train {
namespace {

/// What may be meant, but hardly is.
void warn_of(const RunConfig& config) {
  if (config.optim.warmup_steps > config.train.steps) {
    log::warning(str("optim.warmup_steps (", config.optim.warmup_steps, ") is above train.steps (",
                     config.train.steps, "): the learning rate never reaches optim.lr"));
  }
  if (config.train.evaluate_every > 0 && config.data.validation.empty()) {
    log::warning(str("train.evaluate_every (", config.train.evaluate_every,
                     ") has nothing to evaluate on: data.validation is empty"));
  }
}

/// Start-up table and warnings.
void log_start(const Setup& setup, const Start& start) {
  log::info(start_tables(setup));
  warn_of(setup.config);
  for (const std::string& reason : start.passed_over) log::warning("checkpoint passed over: " + reason);
}

void log_end(const Setup& setup, const checkpoint::TrainerState& state) {
  const RunConfig& config = setup.config;
  if (state.step < config.train.steps) {
    log::info(str("stopped by a signal after step ", state.step, " of ", config.train.steps,
                  "; the same command goes on from there"));
    return;
  }
  const std::string& data = config.data.validation.empty() ? config.data.train : config.data.validation;
  log::info(str("trained to step ", state.step, ", ", state.skipped_steps,
                " steps skipped; everything is in ", config.train.output,
                "\n  evaluate: asplash-eval --checkpoint ", config.train.output, " --data ", data,
                " --context ", config.data.context, "\n  generate: asplash-generate --checkpoint ",
                config.train.output, " --prompt \"...\""));
}

/// The model at its beginning, and what is to be logged about it.
struct NewModel {
  std::unique_ptr<model::LanguageModel> model;
  std::vector<std::string> notes;
};

NewModel make_model(const Setup& setup, const Start& start) {
  const RunConfig& config = setup.config;
  NewModel made;
  made.model = model::make_decoder(config.model, setup.device.name, setup.bf16 ? at::kBFloat16 : at::kFloat,
                                   config.train.seed_value());
  if (start.checkpoint.empty() && !config.train.initial_weights.empty()) {
    made.notes = load_initial_weights(config.train.initial_weights, setup, *made.model);
  }
  return made;
}

/// Model, optimizer and state where `start` says, or at the beginning.
checkpoint::TrainerState begin(const TrainOptions& options, const Setup& setup, const Start& start,
                               model::LanguageModel& model, optim::AdamW& optimizer) {
  if (!start.checkpoint.empty()) {
    return resume(checkpoint::Reader(start.checkpoint), setup, options.allow_changes, model, optimizer);
  }
  checkpoint::TrainerState state;
  state.seed = setup.config.train.seed_value();
  state.data = setup.data_identity;
  state.precision = setup.precision();
  return state;
}

int train_from(const TrainOptions& options, const Setup& setup, const Start& start,
               model::LanguageModel& model) {
  const std::string& run_folder = setup.config.train.output;
  optim::AdamW optimizer(model.parameters(), setup.config.optim);
  const checkpoint::TrainerState state = begin(options, setup, start, model, optimizer);
  if (state.step >= setup.config.train.steps) {
    log::info(str("nothing to do: the run has done ", state.step, " steps, train.steps is ",
                  setup.config.train.steps, " (raise it to go on)"));
    return 0;
  }
  const std::string config_text = resolved_config_text(setup);
  write_file_atomically(run_folder + "/config.yaml", config_text);
  Trainer trainer(setup, config_text, model, optimizer, state);
  trainer.run();
  log_end(setup, trainer.state());
  return 0;
}

int train(const TrainOptions& options, const Setup& setup) {
  const std::string& run_folder = setup.config.train.output;
  // A start that is refused makes no folder.
  if (!std::filesystem::exists(run_folder)) choose_start(run_folder, options.resume, options.overwrite);
  const RunLock lock(run_folder);
  const std::vector<std::string> cleaned = checkpoint::clean_leftovers(run_folder);
  const Start start = choose_start(run_folder, options.resume, options.overwrite);
  // Before --overwrite forgets a run, everything that may refuse the new one has been asked.
  const NewModel made = make_model(setup, start);
  prepare_run_folder(run_folder, options.overwrite);
  log::Options logging;
  logging.file = run_folder + "/train.log";
  logging.most_file_bytes = static_cast<uint64_t>(setup.config.train.log_mebibytes) << 20;
  log::init(logging);
  log_start(setup, start);
  for (const std::string& what : cleaned) log::info(what);
  for (const std::string& note : made.notes) log::info(note);
  try {
    const int status = train_from(options, setup, start, *made.model);
    log::flush();
    return status;
  } catch (const std::exception& error) {
    log::file_only(str("error: ", error.what()));  // the console has it from main()
    throw;
  }
}

}  // namespace

int run(const TrainOptions& options) {
  const InterruptGuard interrupts;
  // Ctrl-C reaches what reads the log through a pipe, too: its end must not be that of the run before it
  // saved.
  std::signal(SIGPIPE, SIG_IGN);
  RunConfig config = load_config(options);
  if (options.print_config) {
    RunConfig defaults;
    std::cout << config::print_documented(config::describing(config), config::describing(defaults));
    return 0;
  }
  const Setup setup = prepare(options, config);
  if (options.dry_run) {
    std::cout << start_tables(setup) << std::flush;
    warn_of(config);
    return 0;
  }
  return train(options, setup);
}

}  // namespace asplash::train
