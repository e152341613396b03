// asplash-train: trains a language model as a configuration file says.
#include "asplash/train/train.h"

#include <CLI/CLI.hpp>

#include "run_program.h"

namespace {

void declare(CLI::App& app, asplash::train::TrainOptions& options) {
  app.add_option("--config", options.config_file, "configuration (YAML), see --print-config for every key")
      ->required()
      ->type_name("FILE");
  app.add_option("--set", options.overrides, "overrides a key of the configuration; may be given many times")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app.add_option("--resume", options.resume,
                 "auto (the run folder's newest whole checkpoint, if there is one), none, or a checkpoint")
      ->type_name("auto|none|PATH")
      ->capture_default_str();
  app.add_flag("--overwrite", options.overwrite, "with --resume none: forget what the run folder holds");
  app.add_flag("--allow-changes", options.allow_changes,
               "resume also with another model, optimizer, data, order, seed, batch or precision than the "
               "checkpoint's (each is listed)");
  app.add_flag("--print-config", options.print_config,
               "print the resolved configuration, documented, and stop");
  app.add_flag("--dry-run", options.dry_run, "print parameters, memory, flops and steps, and stop");
  app.footer(
      "Example:\n  asplash-train --config configs/quickstart.yaml --set model.attention.function=softmax "
      "--set train.output=runs/softmax\nCtrl-C ends the step, saves and stops; the same command goes on.");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains a language model as a configuration says; resumes where it stopped", "asplash-train");
  asplash::train::TrainOptions options;
  declare(app, options);
  return asplash::run_program(app, argc, argv, [&] { return asplash::train::run(options); });
}
