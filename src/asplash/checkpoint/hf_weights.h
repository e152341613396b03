#pragma once

#include <string>
#include <vector>

#include "asplash/checkpoint/safetensors.h"
#include "asplash/model/language_model.h"

namespace asplash::checkpoint {

/// Copies the weights of a Hugging Face folder into the model's parameters: model.safetensors, or the shards
/// that model.safetensors.index.json names, one of them in memory at a time. F32, BF16 and F16 become fp32,
/// exactly. Every parameter must be there once, with the model's shape and finite values, and nothing else:
/// throws asplash::Error naming file and tensor. An lm_head beside tied embeddings must equal them;
/// rotary_emb.inv_freq, which follows from rope_theta, is passed over.
void load_hugging_face_weights(const std::string& folder, model::LanguageModel& model);

/// The model's parameters as `dtype` ("float32", "bfloat16", "float16"). Throws asplash::Error naming a
/// tensor whose values are too large for it.
NamedTensors cast_weights(const model::LanguageModel& model, const std::string& dtype);

}  // namespace asplash::checkpoint
