#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "asplash/checkpoint/safetensors.h"
#include "asplash/data/sampler.h"
#include "asplash/model/language_model.h"

/// A checkpoint is a folder:
///   model.safetensors       the weights (fp32), Llama's tensor names, entmax's own beside them
///   optimizer.safetensors   the optimizer's state, by parameter name
///   trainer_state.json      step, tokens, data position, counters
///   config.yaml             the resolved configuration of the run
///   config.json             the same model in Hugging Face's terms (Llama family), own keys under "asplash"
///   tokenizer.model         the SentencePiece model
///   manifest.json           written last: each file's size and XXH3-128
/// It is written as NAME.tmp, every file and the folder fsynced, then renamed: a folder with a manifest whose
/// sizes and checksums agree is whole; nothing else is one.
namespace asplash::checkpoint {

struct TrainerState {
  int64_t step = 0;           ///< optimizer steps done
  int64_t tokens = 0;         ///< tokens trained on
  int64_t skipped_steps = 0;  ///< steps skipped for a non-finite loss or gradient
  data::Position position;    ///< where reading goes on
  uint64_t seed = 0;
  std::optional<double> best_validation_loss;
};

struct Contents {
  NamedTensors model;
  NamedTensors optimizer;
  TrainerState state;
  std::string config_yaml;
  std::string config_json;
  std::string tokenizer_file;  ///< path to copy from; empty: the data has none
};

/// Writes the checkpoint folder `path` as described above. Throws asplash::Error; leaves no half-written
/// folder of the final name, and removes its .tmp where it can.
void save(const std::string& path, const Contents& contents);

/// An existing checkpoint: opened only if its manifest and every checksum agree.
class Reader {
 public:
  /// `path`: a checkpoint folder, or a run folder (the newest whole checkpoint in its checkpoints/).
  explicit Reader(const std::string& path);

  const std::string& path() const { return path_; }
  TrainerState state() const;
  std::string config_yaml() const;
  std::string tokenizer_file() const;  ///< path inside the checkpoint; "" where it holds none
  /// Copies the weights into the model's parameters; every name and shape must agree, both ways.
  void load_model(model::LanguageModel& model) const;
  NamedTensors optimizer() const;

 private:
  std::string path_;
};

/// RUN/checkpoints/step_00000200
std::string path_of_step(const std::string& run_folder, int64_t step);

/// Paths of the whole checkpoints under RUN/checkpoints (step_<digits>), oldest first; the others with the
/// reason why they are passed over. Reads every byte to verify it.
struct Listing {
  std::vector<std::string> complete;
  std::vector<std::string> passed_over;
};
Listing list(const std::string& run_folder);

/// The newest whole checkpoint and what newer ones were passed over, looking from the newest backwards and
/// reading no more than that; complete is empty or holds one path.
Listing newest(const std::string& run_folder);

/// Removes the oldest checkpoints until `keep` (at least 1) are left. Does nothing unless the newest is
/// verified whole, so that the only whole one never goes; damaged ones are neither counted nor removed.
/// Returns the removed paths.
std::vector<std::string> prune(const std::string& run_folder, int64_t keep);

}  // namespace asplash::checkpoint
