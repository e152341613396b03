#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

/// Entmax attention as its definition reads: dense, fp64, thresholds by sorting. Shares no code with the
/// operator.
namespace asplash::test {

struct EntmaxCase {
  double alpha = 1.5;
  double scale = 1;
  bool causal = true;
  std::vector<double> slopes;                       ///< per query head, empty: no bias
  std::vector<int64_t> cu_seqlens_q, cu_seqlens_k;  ///< empty: one document
};

struct EntmaxReference {
  at::Tensor out, tau, weights;  ///< fp64: [b, h, q, d], [b, h, q], [b, h, q, k]
  at::Tensor grad_query, grad_key, grad_value;
  double zero_tiles = 0, tiles = 0, support = 0, rows = 0;
  double edge_distance = 0;  ///< smallest |z - tau| of a visible pair: below it no support changes
};

/// All tensors are read as fp64. Gradients by the closed formulas, if grad_out is defined.
EntmaxReference entmax_reference(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                 const EntmaxCase& call, const at::Tensor& grad_out = {});

/// |a - b| / |b| in the Frobenius norm; |a| where b is 0.
double relative_error(const at::Tensor& a, const at::Tensor& b);

}  // namespace asplash::test
