#include "asplash/train/resume.h"

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/config/config.h"

namespace asplash::train {
namespace {

/// Keys that must stay, since weights, moments or the data position mean nothing under others.
bool must_stay(const std::string& difference) {
  for (const char* key : {"model.", "train.seed:", "data.context:", "data.documents:", "data.shuffle:"}) {
    if (difference.rfind(key, 0) == 0) return true;
  }
  return false;
}

void compare_configurations(const checkpoint::Reader& reader, const RunConfig& now) {
  RunConfig before, after = now;
  config::load_text(reader.config_yaml(), reader.path() + "/config.yaml", {}, config::describing(before));
  std::vector<std::string> refused;
  for (const std::string& difference :
       config::differences(config::describing(before), config::describing(after))) {
    if (must_stay(difference)) {
      refused.push_back(difference);
    } else {
      log::info("changed since the checkpoint: " + difference);
    }
  }
  if (!refused.empty()) {
    fail("cannot resume from ", reader.path(), " with another ", join(refused, ", another "),
         "; set it back, or start a new run in another train.output");
  }
}

void compare_tokenizers(const checkpoint::Reader& reader, const data::Manifest& manifest) {
  const std::string file = reader.tokenizer_file();
  const std::string hash = file.empty() ? "" : hash_file(file);
  if (hash == manifest.tokenizer_hash) return;
  fail("cannot resume from ", reader.path(), ": its tokenizer (", hash,
       ") is not the one of data.train: ", manifest.path, " (", manifest.tokenizer_hash, ")");
}

}  // namespace

checkpoint::TrainerState resume(const checkpoint::Reader& reader, const Setup& setup,
                                model::LanguageModel& model, optim::AdamW& optimizer) {
  compare_configurations(reader, setup.config);
  compare_tokenizers(reader, setup.train->manifest());
  const checkpoint::TrainerState state = reader.state();
  reader.load_model(model);
  const checkpoint::NamedTensors tensors = reader.optimizer();
  optimizer.load_state({tensors.begin(), tensors.end()});
  log::info(str("resumed from ", reader.path(), ": step ", state.step, ", ", grouped(state.tokens),
                " tokens, epoch ", state.position.epoch, ", sample ", state.position.sample));
  return state;
}

}  // namespace asplash::train
