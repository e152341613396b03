#include "asplash/train/resume.h"

#include <algorithm>

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/finite.h"
#include "asplash/config/config.h"

namespace asplash::train {
namespace {

/// The dotted key of "optim.lr: 0.001 -> 0.0003".
std::string key_of(const std::string& difference) { return difference.substr(0, difference.find(':')); }

bool is_one_of(const std::string& key, const std::vector<std::string>& keys) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

/// Keys under which training goes on as the same run: a new key is not among them until somebody has thought
/// about it. data.train is judged by its content.
bool is_harmless(const std::string& key) {
  return is_one_of(key, {"train.output",
                         "train.initial_weights",
                         "train.steps",
                         "train.device",
                         "train.threads",
                         "train.deterministic",
                         "train.max_skipped_in_a_row",
                         "train.spike_threshold",
                         "train.log_every",
                         "train.log_mebibytes",
                         "train.statistics_every",
                         "train.evaluate_every",
                         "train.evaluate_tokens",
                         "train.checkpoint_every",
                         "train.checkpoint_at_start",
                         "train.keep_checkpoints",
                         "train.keep_best",
                         "train.on_failed_write",
                         "train.log_mebibytes",
                         "train.precision",
                         "model.attention.implementation",
                         "data.validation",
                         "data.prefetch"});
}

struct Changes {
  std::vector<std::string> harmless;
  std::vector<std::string> of_the_run;
  bool validation = false;  ///< among them: what the best validation loss was measured on
};

/// What the configurations do not say: the data behind a path, and the precision behind "automatic".
void compare_identities(const checkpoint::TrainerState& before, const Setup& now, bool path_changed,
                        Changes& changes) {
  const std::string data = str("data.train: ", now.train->manifest().path);
  if (before.data.empty() ? path_changed : before.data != now.data_identity) {
    changes.of_the_run.push_back(data + " holds other tokens than the run was trained on");
  }
  if (!before.precision.empty() && before.precision != now.precision()) {
    changes.of_the_run.push_back(
        str("train.precision: ", before.precision, " -> ", now.precision(), " (in use)"));
  }
}

Changes find_changes(const checkpoint::Reader& reader, const checkpoint::TrainerState& state,
                     const Setup& setup) {
  RunConfig before, after = setup.config;
  config::load_text(reader.config_yaml(), reader.path() + "/config.yaml", {}, config::describing(before),
                    config::Unused::allowed);
  Changes changes;
  bool path_changed = false;
  for (const std::string& difference :
       config::differences(config::describing(before), config::describing(after))) {
    const std::string key = key_of(difference);
    const bool is_path = key == "data.train";
    path_changed = path_changed || is_path;
    (is_path || is_harmless(key) ? changes.harmless : changes.of_the_run).push_back(difference);
    changes.validation = changes.validation || is_one_of(key, {"data.validation", "train.evaluate_tokens",
                                                               "data.context", "data.documents"});
  }
  compare_identities(state, setup, path_changed, changes);
  return changes;
}

void judge(const Changes& changes, const std::string& checkpoint, bool allow_changes) {
  for (const std::string& difference : changes.harmless) {
    log::info("changed since the checkpoint: " + difference);
    if (key_of(difference) == "train.steps") {
      log::info("the learning rate follows its schedule over the new train.steps from here on");
    }
  }
  if (changes.of_the_run.empty()) return;
  if (!allow_changes) {
    fail("cannot resume from ", checkpoint, ": this would be another run: ", join(changes.of_the_run, "; "),
         "; set it back, add --allow-changes to go on with the change, or start a new run in another "
         "train.output");
  }
  for (const std::string& difference : changes.of_the_run) {
    log::warning("changed since the checkpoint, as --allow-changes allows: " + difference);
  }
}

void compare_tokenizers(const checkpoint::Reader& reader, const data::Manifest& manifest) {
  const std::string file = reader.tokenizer_file();
  const std::string hash = file.empty() ? "" : hash_file(file);
  if (hash == manifest.tokenizer_hash) return;
  fail("cannot resume from ", reader.path(), ": its tokenizer (", hash,
       ") is not the one of data.train: ", manifest.path, " (", manifest.tokenizer_hash, ")");
}

void load_tensors(const checkpoint::Reader& reader, model::LanguageModel& model, optim::AdamW& optimizer) {
  reader.load_model(model);
  checkpoint::NamedTensors all = reader.optimizer();
  optimizer.load_state({all.begin(), all.end()});
  for (const auto& [name, value] : model.parameters()) all.emplace_back(name, value);
  const std::string problem = checkpoint::find_not_finite(all);
  if (!problem.empty()) fail("cannot resume from ", reader.path(), ": ", problem);
}

}  // namespace

checkpoint::TrainerState resume(const checkpoint::Reader& reader, const Setup& setup, bool allow_changes,
                                model::LanguageModel& model, optim::AdamW& optimizer) {
  compare_tokenizers(reader, setup.train->manifest());
  checkpoint::TrainerState state = reader.state();
  const Changes changes = find_changes(reader, state, setup);
  judge(changes, reader.path(), allow_changes);
  load_tensors(reader, model, optimizer);
  if (changes.validation && state.best_validation_loss) {
    log::info(str("the best validation loss, ", *state.best_validation_loss, " after step ", state.best_step,
                  ", was measured otherwise: it is forgotten"));
    state.best_validation_loss.reset();
    state.best_step = -1;
  }
  state.seed = setup.config.train.seed_value();
  state.data = setup.data_identity;
  state.precision = setup.precision();
  log::info(str("resumed from ", reader.path(), ": step ", state.step, ", ", grouped(state.tokens),
                " tokens, epoch ", state.position.epoch, ", sample ", state.position.sample));
  return state;
}

}  // namespace asplash::train
