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
/// sizes and checksums agree is whole; nothing else is one. A random number generator has no state here:
/// nothing draws from one once the weights are made; the data's order is computed from seed and position.
namespace asplash::checkpoint {

/// What the losses of the last steps were like, for telling a spike.
struct LossLevel {
  double mean = 0;       ///< exponential mean
  double deviation = 0;  ///< exponential mean of the distance from it
  int64_t steps = 0;     ///< seen
};

struct TrainerState {
  int64_t step = 0;              ///< optimizer steps done
  int64_t tokens = 0;            ///< tokens trained on
  int64_t skipped_steps = 0;     ///< steps skipped for a non-finite loss or gradient
  int64_t skipped_in_a_row = 0;  ///< of these, the last ones without a good step between
  data::Position position;       ///< where reading goes on
  uint64_t seed = 0;
  std::optional<double> best_validation_loss;
  int64_t best_step = -1;  ///< of best_validation_loss; -1: not evaluated yet
  LossLevel loss_level;
  std::string data;       ///< identity of the training data's content; "": not known (earlier versions)
  std::string precision;  ///< of products: "bf16" or "fp32"; "": not known
};

struct Contents {
  NamedTensors model;
  NamedTensors optimizer;
  TrainerState state;
  std::string config_yaml;
  std::string config_json;
  std::string tokenizer_file;  ///< path to copy from; empty: the data has none
};

/// Writes the checkpoint folder `path` as described above. Throws asplash::Error, as NotFiniteError where
/// weights or moments are not finite; leaves no half-written folder of the final name, and removes its .tmp
/// where it can.
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

/// Removes all but the newest `keep` (at least 1) checkpoints, step 0, which is not counted, and `best_step`
/// (-1: none). Damaged ones are neither counted nor removed; the newest of the others is verified by its
/// checksums, so that the only whole one never goes. Returns the removed paths.
std::vector<std::string> prune(const std::string& run_folder, int64_t keep, int64_t best_step = -1);

/// Removes what saves and removals that a killed process began have left under RUN/checkpoints (step_*.tmp)
/// and in RUN (*.tmp-<pid> of its files), and nothing else; a checkpoint that was aside while another took
/// its place is put back. Only for the process that has the run folder to itself. Returns a line on each.
std::vector<std::string> clean_leftovers(const std::string& run_folder);

}  // namespace asplash::checkpoint
