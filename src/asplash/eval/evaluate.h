#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/eval/report.h"

namespace asplash::eval {

struct EvaluateOptions {
  std::string checkpoint;  ///< checkpoint folder, or a run folder (its newest checkpoint)
  std::string data;        ///< manifest of a packed split, or its folder
  std::vector<int64_t> contexts;
  std::string documents;   ///< stream, packed, or empty: as the checkpoint was trained
  int64_t stride = 0;      ///< see PerplexityOptions
  int64_t max_tokens = 0;  ///< at most this many target tokens; 0: all
  int64_t tokens_per_batch = 32768;
  std::string device = "auto";
  std::string precision = "automatic";  ///< automatic (bf16 on a GPU, fp32 on the CPU), fp32, bf16
  int64_t threads = 0;                  ///< 0: libtorch's choice
  /// Where to write the first window's logits (see write_first_logits()); "": nowhere.
  std::string logits_file;
};

/// What asplash-eval does: opens checkpoint and data, measures, tells. Progress goes to stderr.
/// Throws asplash::Error; before the model is built where the data, its tokenizer or the contexts do not fit.
EvaluationReport evaluate(const EvaluateOptions& options);

}  // namespace asplash::eval
