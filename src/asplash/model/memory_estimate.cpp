#include "asplash/model/memory_estimate.h"

#include <algorithm>

#include "asplash/ops/entmax_attention.h"
#include "asplash/ops/linear_cross_entropy.h"
#include "asplash/ops/softmax_attention.h"

namespace asplash::model {
namespace {

constexpr int64_t kWide = 4;  ///< bytes of a number in the residual stream, norms, parameters

/// Bytes a token costs in one layer between forward and backward.
int64_t layer_bytes_per_token(const ModelConfig& c, int64_t context, int64_t narrow, bool cuda) {
  const int64_t query = c.heads * c.head_dim, key = c.kv_heads * c.head_dim;
  const bool softmax = c.attention.function == AttentionFunction::softmax;
  // Residual stream before each of the two norms; on the CPU also the normed values.
  int64_t bytes = kWide * c.width * (cuda ? 2 : 4);
  if (c.qk_norm) bytes += kWide * (query + key) * (cuda ? 1 : 2);
  // Input of the projections; query, key, value; the output, once more where the projection wants another
  // layout than the kernel wrote; a row's normalizer.
  const bool same_layout = softmax && cuda && c.alibi_heads() == 0;
  bytes += narrow * (c.width + query + 2 * key + (same_layout ? 1 : 2) * query) + kWide * c.heads;
  // The CPU's kernels want key and value once per query head; CUDA's take ALiBi as further dimensions.
  if (softmax && !cuda && c.kv_heads != c.heads) bytes += narrow * 2 * query;
  if (softmax && cuda && c.alibi_heads() > 0) {
    bytes += narrow * (query + 2 * key + 2 * query + ops::kAlibiDims * (2 * c.heads + 2 * c.kv_heads));
  }
  // Of entmax attention's kernels, a row's support.
  const bool kernels = !softmax && cuda && c.attention.implementation == ops::EntmaxImplementation::automatic;
  if (kernels && narrow < kWide) bytes += 4 * c.heads * (1 + std::min(context, ops::kEntmaxSupport));
  if (c.attention.adaptive_temperature) bytes += narrow * query + kWide * (c.width + 5 * c.heads);
  return bytes + narrow * (c.width + 3 * c.mlp_width);  // input of the MLP, gate, up, and their product
}

/// Gradients alive at once while a layer's backward pass runs.
int64_t working_bytes_per_token(const ModelConfig& c, int64_t narrow) {
  const int64_t mlp = narrow * 3 * c.mlp_width;
  const int64_t attention = narrow * (3 * c.heads + 2 * c.kv_heads) * c.head_dim;
  return std::max(mlp, attention) + 3 * kWide * c.width;
}

}  // namespace

MemoryEstimate estimate_memory(const ModelConfig& config, int64_t micro_batch, int64_t context, bool bf16,
                               bool cuda) {
  const ModelConfig c = config.resolved();
  const int64_t narrow = bf16 ? 2 : kWide;
  const int64_t tokens = micro_batch * context;
  const int64_t parameters = parameter_count(c);
  const int64_t table = c.vocab_size * c.width;

  MemoryEstimate bytes;
  bytes.weights = kWide * parameters + (bf16 ? narrow * (parameters - (c.tied_embeddings ? 0 : table)) : 0);
  bytes.gradients = kWide * parameters;
  bytes.optimizer = 2 * kWide * parameters;
  const int64_t ends = (kWide + narrow) * c.width;  // the last norm's input and output
  bytes.activations = tokens * (c.layers * layer_bytes_per_token(c, context, narrow, cuda) + ends +
                                working_bytes_per_token(c, narrow));
  const int64_t rows = std::min(tokens, ops::loss_chunk_rows(c.vocab_size, cuda));
  const int64_t chunk = rows * c.vocab_size * (kWide + narrow);
  bytes.logits = chunk + kWide * table + narrow * tokens * c.width;
  return bytes;
}

}  // namespace asplash::model
