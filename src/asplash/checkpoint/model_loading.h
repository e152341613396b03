#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>

#include "asplash/checkpoint/checkpoint.h"
#include "asplash/model/language_model.h"

namespace asplash::checkpoint {

/// A model out of a checkpoint, and what programs other than the trainer ask about it.
struct LoadedModel {
  std::unique_ptr<model::LanguageModel> model;
  std::string path;  ///< the checkpoint folder itself, also where a run folder was named
  TrainerState state;
  int64_t trained_context = 0;    ///< data.context of the run
  bool packed_documents = false;  ///< data.documents of the run: packed, otherwise stream
  std::string tokenizer_file;
  std::string tokenizer_hash;  ///< hash_file() of it
  int64_t bos_id = -1;         ///< stood before each training document; -1: none
  int64_t eos_id = -1;         ///< stood after each training document; -1: none
};

/// What config.yaml and config.json of a checkpoint say, without the weights.
struct ModelDescription {
  model::ModelConfig config;  ///< resolved, with vocab_size
  int64_t trained_context = 0;
  bool packed_documents = false;
  int64_t bos_id = -1;
  int64_t eos_id = -1;
};
ModelDescription describe_model(const Reader& reader);

/// The checkpoint's tokenizer file. Throws asplash::Error where it has none.
std::string tokenizer_of(const Reader& reader);

/// The config.yaml of a checkpoint that no run of ours wrote: model and context, which is what
/// describe_model() reads and what a configuration takes over by `base:`.
std::string model_config_text(const model::ModelConfig& config, int64_t trained_context);

/// Builds the model of a checkpoint (or of a run folder's newest) on `device` and loads its weights;
/// compute_type as for model::make_decoder. Throws asplash::Error naming the file and what is wrong with it.
LoadedModel load_model(const Reader& reader, const std::string& device, c10::ScalarType compute_type);
LoadedModel load_model(const std::string& path, const std::string& device, c10::ScalarType compute_type);

}  // namespace asplash::checkpoint
