#include "asplash/train/initial_weights.h"

#include "asplash/base/error.h"
#include "asplash/base/files.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/config/config.h"

namespace asplash::train {
namespace {

/// The rows of an embedding matrix mean nothing under another tokenizer.
void check_tokenizer(const checkpoint::Reader& reader, const data::Manifest& manifest) {
  const std::string file = reader.tokenizer_file();
  const std::string hash = file.empty() ? "" : hash_file(file);
  if (hash == manifest.tokenizer_hash) return;
  fail("train.initial_weights: ", reader.path(), " belongs to tokenizer ", hash.empty() ? "(none)" : hash,
       ", data.train: ", manifest.path, " was packed with ", manifest.tokenizer_hash,
       file.empty() ? "" : "; pack the text with " + file);
}

}  // namespace

std::vector<std::string> load_initial_weights(const std::string& path, const Setup& setup,
                                              model::LanguageModel& model) {
  const checkpoint::Reader reader(path);
  check_tokenizer(reader, setup.train->manifest());
  model::ModelConfig before = checkpoint::describe_model(reader).config, now = model.config();
  reader.load_model(model);
  std::vector<std::string> notes = {"initial weights from " + reader.path()};
  for (const std::string& difference :
       config::differences(config::describing(before), config::describing(now))) {
    notes.push_back("differs from what the initial weights were trained with: model." + difference);
  }
  return notes;
}

}  // namespace asplash::train
