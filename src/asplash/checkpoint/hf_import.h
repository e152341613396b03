#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asplash::checkpoint {

struct ImportOptions {
  std::string input;           ///< folder with config.json, safetensors and tokenizer.model
  std::string output;          ///< checkpoint folder to make; must not exist
  std::string tokenizer_file;  ///< SentencePiece model; "": tokenizer.model of the input folder
};

/// What was made, for the program to tell.
struct ImportReport {
  int64_t parameters = 0;
  int64_t context = 0;           ///< max_position_embeddings
  int64_t vocab_size = 0;        ///< of the model
  int64_t tokenizer_pieces = 0;  ///< may be fewer: the model's vocabulary is padded
  std::string dtype;             ///< that the weights had by config.json; now fp32
  std::vector<std::string> notes;
};

/// Makes a checkpoint of ours (step 0, no optimizer state) of a Hugging Face folder: asplash-eval and
/// -generate read it, a run starts from it by train.initial_weights. Needs memory for the weights in fp32.
/// Throws asplash::Error naming file and key or tensor for what cannot be represented, and leaves nothing.
ImportReport import_hugging_face(const ImportOptions& options);

}  // namespace asplash::checkpoint
