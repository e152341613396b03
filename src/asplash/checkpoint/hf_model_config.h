#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/model/model_config.h"

namespace asplash::checkpoint {

/// What config.json of a Hugging Face checkpoint says about the model.
struct HuggingFaceModel {
  model::ModelConfig config;       ///< resolved: softmax, RoPE, with vocab_size
  int64_t context = 0;             ///< max_position_embeddings
  std::string dtype;               ///< torch_dtype, for tables; "" where it is not said
  int64_t bos_id = -1;             ///< -1: none
  std::vector<int64_t> eos_ids;    ///< one, several (any of them ends a text), or none
  std::vector<std::string> notes;  ///< what is not taken over and does not change what the model computes
};

/// Reads the text of `path`. LlamaForCausalLM, MistralForCausalLM and Qwen3ForCausalLM; keys that are not
/// there have the defaults of transformers' configuration classes. Throws asplash::Error naming path and key
/// for everything a decoder of ours would compute differently: another architecture or activation, rope
/// scaling, sliding windows, biases, partial rotation, quantized weights.
HuggingFaceModel parse_hugging_face_config(const std::string& path, const std::string& text);

}  // namespace asplash::checkpoint
