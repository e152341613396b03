#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "asplash/eval/sampling.h"

namespace asplash::model {
class LanguageModel;
}

namespace asplash::eval {

struct GenerationOptions {
  int64_t max_tokens = 200;
  SamplingOptions sampling;
  uint64_t seed = 0;
  int32_t stop_token = -1;  ///< generation ends when it is drawn (it is not handed out); -1: none
  int64_t vocab_size = 0;   ///< only tokens below it are drawn; 0: the model's vocabulary
  std::string device = "cpu";
};

struct Generation {
  std::vector<int32_t> tokens;  ///< without the prompt and the stop token
  bool stopped = false;         ///< by the stop token, not by max_tokens
  double prompt_seconds = 0;    ///< reading the prompt, to the first logits
  double decode_seconds = 0;    ///< all tokens after the first
};

/// Continues `prompt` token by token with a key/value cache. `on_token` is called with each token as it is
/// drawn. Throws asplash::Error for an empty prompt, token ids outside the model's vocabulary, and bad
/// options.
Generation generate(model::LanguageModel& model, const std::vector<int32_t>& prompt,
                    const GenerationOptions& options, const std::function<void(int32_t token)>& on_token);

}  // namespace asplash::eval
