#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "asplash/config/fields.h"
#include "asplash/ops/entmax_attention.h"

namespace asplash::model {

enum class AttentionFunction { softmax, entmax };
enum class PositionKind { rope, nope, alibi, nape };
enum class SlopeKind { geometric, reciprocal, list };

/// As configurations have it: "rope", "softmax", ...
const char* name_of(PositionKind kind);
const char* name_of(AttentionFunction function);

/// How the model knows where a token stands.
struct PositionConfig {
  PositionKind kind = PositionKind::rope;
  double rope_theta = 10000.0;
  /// nape: share of the heads (the first ones) that are ALiBi heads; the rest are NoPE heads.
  double alibi_share = 0.5;
  SlopeKind slopes = SlopeKind::geometric;
  /// geometric: the slope of ALiBi head h (from 0) is slope_first * slope_ratio^h.
  double slope_first = 1.0;
  double slope_ratio = 0.5;
  /// list: one slope per ALiBi head. (reciprocal: 1 / (h + 1), h from 0.)
  std::vector<double> slope_list;

  void describe(config::Fields& f);
};

struct AttentionConfig {
  AttentionFunction function = AttentionFunction::entmax;
  double alpha = 1.5;  ///< entmax only, in (1, 2]
  /// ASEntmax (arXiv 2506.16640): on NoPE heads q_i <- q_i (1 + beta_i log(i + 1)^gamma_i), i from 1 within
  /// the document, beta = softplus(w_beta x_i), gamma = 2 tanh(w_gamma x_i). Both weights start at 0: the
  /// factor is then 1 + ln 2 at every position, and what depends on the position is learned.
  bool adaptive_temperature = false;
  /// entmax only: reference is slow and serves to hold the kernels against.
  ops::EntmaxImplementation implementation = ops::EntmaxImplementation::automatic;

  void describe(config::Fields& f);
};

/// A pre-norm Llama-style decoder.
struct ModelConfig {
  int64_t vocab_size = 0;  ///< 0: the tokenizer's
  int64_t width = 768;
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t kv_heads = 0;   ///< 0: as many as heads
  int64_t head_dim = 0;   ///< 0: width / heads
  int64_t mlp_width = 0;  ///< SwiGLU's inner width; 0: 8/3 width rounded up to a multiple of 64
  bool tied_embeddings = true;
  bool qk_norm = false;       ///< RMSNorm of each query and key head, learned scale [head_dim] (as Qwen3)
  double qk_norm_init = 1.0;  ///< initial value of the query norm's scale
  double norm_eps = 1e-5;
  double init_std = 0.02;  ///< projections back into the residual stream: init_std / sqrt(2 layers)
  PositionConfig positions;
  AttentionConfig attention;

  void describe(config::Fields& f);

  /// The zeros replaced by what they stand for (vocab_size excepted).
  ModelConfig resolved() const;
  /// Heads with linear biases (the first ones), and heads without any position information.
  int64_t alibi_heads() const;
  int64_t nope_heads() const;
  /// The slope of each head: 0 for heads without ALiBi. Size heads (or empty for rope and nope).
  std::vector<double> alibi_slopes() const;
};

/// Parameters by part, for tables: {"embeddings", n}, {"attention", n}, {"mlp", n}, {"norms", n}, {"head",
/// n}.
std::vector<std::pair<std::string, int64_t>> parameters_by_part(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);

/// Floating-point operations of forward and backward per token at a context length, attention counted dense
/// and causal: 6 (parameters of matrix products) + 6 layers heads head_dim context.
double train_flops_per_token(const ModelConfig& config, int64_t context);

}  // namespace asplash::model
