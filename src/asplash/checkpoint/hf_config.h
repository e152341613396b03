#pragma once

#include <cstdint>
#include <string>

#include "asplash/model/model_config.h"

namespace asplash::checkpoint {

/// config.json in Hugging Face's terms for model.safetensors: LlamaForCausalLM where the model is one
/// (softmax, RoPE), Qwen3ForCausalLM where it also has QK-norm, otherwise AsplashForCausalLM with the same
/// keys. What those cannot say stands under "asplash". context: the trained length; bos_id, eos_id: -1 for
/// none. dtype: of the weights, in torch's words.
std::string hugging_face_config(const model::ModelConfig& config, int64_t context, int64_t bos_id,
                                int64_t eos_id, const std::string& dtype = "float32");

}  // namespace asplash::checkpoint
