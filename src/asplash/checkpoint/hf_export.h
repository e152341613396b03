#pragma once

#include <string>

namespace asplash::checkpoint {

struct ExportOptions {
  std::string checkpoint;         ///< checkpoint folder, or a run folder (its newest checkpoint)
  std::string output;             ///< folder to make; must not exist
  std::string dtype = "float32";  ///< of the weights: float32, bfloat16, float16
};

/// Writes config.json, model.safetensors, tokenizer.model and tokenizer_config.json, as transformers' Auto
/// classes read them, whole or not at all. Returns the architecture ("LlamaForCausalLM"). Throws
/// asplash::Error naming the setting where transformers has no such model: entmax, positions other than RoPE,
/// adaptive temperature.
std::string export_hugging_face(const ExportOptions& options);

}  // namespace asplash::checkpoint
