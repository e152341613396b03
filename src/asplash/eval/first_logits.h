#pragma once

#include <string>

#include "asplash/eval/perplexity.h"

namespace asplash::eval {

/// Writes what the model says of the first window of the shortest of `options.contexts`, for other programs
/// to be compared with: a safetensors file with `tokens` [context] int32 and `logits` [context, vocabulary]
/// fp32. The file appears whole or not at all. Throws asplash::Error naming it.
void write_first_logits(const std::string& path, model::LanguageModel& model, const TokenStream& stream,
                        const PerplexityOptions& options);

}  // namespace asplash::eval
