#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "asplash/kernels/entmax_attention.h"

/// Entmax attention as its definition reads: on the host, dense, fp64, thresholds by sorting. Shares no code
/// with the kernels, and no arithmetic.
namespace asplash::test {

struct AttentionProblem {
  int head_dim = 32;
  int batch = 1;
  int heads = 1;
  int kv_heads = 1;
  int q_tokens = 1;
  int k_tokens = 1;
  float alpha = 1.5F;
  float scale = 0.125F;
  bool causal = true;
  std::vector<float> slopes;        ///< per head, or empty
  std::vector<int32_t> cu_q, cu_k;  ///< of documents, or empty

  int documents() const { return cu_q.empty() ? 0 : static_cast<int>(cu_q.size()) - 1; }
};

/// [batch, heads, tokens, head_dim], contiguous; numbers that the element type holds.
struct AttentionInputs {
  std::vector<float> query, key, value, grad_out;
};

/// A row tile and a key tile with a visible pair.
struct ReferenceTile {
  int batch, head;
  int row_tile;   ///< of all documents'
  int key_tile;   ///< of its document's
  double excess;  ///< largest z - tau; NaN rows left out
};

struct AttentionReference {
  std::vector<double> out, tau, mean_value, weight_sum;  ///< NaN for broken rows
  std::vector<double> grad_query, grad_key, grad_value;
  std::vector<ReferenceTile> tiles;
  int64_t support = 0, rows = 0;
  int64_t at_edge = 0;  ///< visible pairs so near the threshold that fp32 may see them on its other side
  double largest_score = 0;
  /// Frobenius norms that grad_query and grad_key would have if dO.v and delta did not cancel: a row with one
  /// key has zero gradients, and the error of their difference.
  double grad_query_size = 0, grad_key_size = 0;
};

AttentionReference attention_reference(const AttentionProblem& problem, const AttentionInputs& inputs);

/// Normal numbers; scores have standard deviation `spread` if scale is 1 / sqrt(head_dim).
AttentionInputs normal_inputs(const AttentionProblem& problem, double spread, unsigned seed);

/// Rounds every number to the type.
void round_to(kernels::ElementType type, std::vector<float>& numbers);
void round_to(kernels::ElementType type, AttentionInputs& inputs);

/// |a - b| / max(|b|, size) in the Frobenius norm, over the numbers that are finite in b; |a - b| if both are
/// 0.
double relative_error(const std::vector<float>& a, const std::vector<double>& b, double size = 0);

/// Where one is NaN and the other is not; -1: nowhere.
int64_t first_nan_mismatch(const std::vector<float>& a, const std::vector<double>& b);

}  // namespace asplash::test
