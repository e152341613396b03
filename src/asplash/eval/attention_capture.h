#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/checkpoint/safetensors.h"
#include "asplash/eval/perplexity.h"

namespace asplash::model {
class LanguageModel;
struct ModelConfig;
}  // namespace asplash::model

/// What the attention operator is given in a trained model: real inputs for kernels, and for counting how
/// much of the causal half entmax leaves active (docs/sparsity.md).
namespace asplash::eval {

struct AttentionCapture {
  std::vector<int64_t> layers;  ///< from 0, ascending
  std::vector<int64_t> begins;  ///< first token of each window in the stream; see spread_windows()
  int64_t context = 0;          ///< tokens of a window
  bool packed = false;          ///< attention and positions do not cross documents
  std::string device = "cpu";   ///< the model's
};

/// The layers asked for, ascending; all of them where none are named. Throws asplash::Error for a layer that
/// the model does not have and for one named twice.
std::vector<int64_t> layers_to_capture(const std::vector<int64_t>& layers, int64_t layers_of_model);

/// The first tokens of `windows` windows of `context` tokens, without overlap: each in the middle of its
/// share of a stream of `tokens` tokens, so that none begins with the front matter that texts begin with.
/// Throws asplash::Error where there is no room for them.
std::vector<int64_t> spread_windows(int64_t tokens, int64_t context, int64_t windows);

/// "rope", "nope" or "alibi" for each query head.
std::vector<std::string> head_kinds(const model::ModelConfig& config);

/// Runs the model over each window and copies to the host, contiguous, in the compute type, for window W and
/// layer L:
///
///     window_W.layer_L.query                  [heads, context, head_dim]
///     window_W.layer_L.key, .value            [kv_heads, context, head_dim]
///     window_W.tokens                         [context] int32
///     window_W.cu_seqlens                     [documents + 1] int32; 0, context where not packed
///     alibi_slopes                            [heads] fp32; 0 for heads without ALiBi
///
/// All are held in memory at once. Throws asplash::Error for a vocabulary larger than the model's, and for
/// values that are not finite, naming window and layer.
checkpoint::NamedTensors capture_attention(model::LanguageModel& model, const TokenStream& stream,
                                           const AttentionCapture& capture);

}  // namespace asplash::eval
