#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "asplash/eval/generation.h"

namespace asplash::eval {

struct ContinueTextOptions {
  std::string checkpoint;  ///< checkpoint folder, or a run folder (its newest checkpoint)
  std::string prompt;      ///< UTF-8; may be empty where training documents began with a bos token
  int64_t max_tokens = 200;
  SamplingOptions sampling;
  std::optional<uint64_t> seed;  ///< none: drawn, and told in the summary
  bool stop_at_eos = true;
  bool print_prompt = true;  ///< the prompt before its continuation
  std::string device = "auto";
  std::string precision = "automatic";  ///< automatic (bf16 on a GPU, fp32 on the CPU), fp32, bf16
  int64_t threads = 0;                  ///< 0: libtorch's choice
};

/// What asplash-generate does: writes the text to `out` as it comes, whole characters only and flushed, ended
/// by a line feed; a summary with the seed and tokens per second goes to the log. Throws asplash::Error.
void continue_text(const ContinueTextOptions& options, std::ostream& out);

}  // namespace asplash::eval
