#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <string>

#include "ops/entmax_inputs.h"
#include "ops/entmax_reference.h"

/// The reference of entmax_reference.h by fp64 tensor operations on the inputs' device, some rows of a head
/// at a time: for what loops on the CPU would take too long to check. entmax_dense_test.cpp holds the two
/// together.
namespace asplash::test {

/// What an implementation returned; gradients and tile_mask may be undefined.
struct EntmaxResults {
  at::Tensor out, tau;
  at::Tensor grad_query, grad_key, grad_value;
  at::Tensor tile_mask;   ///< [batch, heads, row tiles, words], see kernels/entmax_attention.h
  at::Tensor statistics;  ///< [kEntmaxStatistics]
};

/// Distances from the reference, for finite inputs.
struct EntmaxErrors {
  /// |got - expected| / |expected|, Frobenius. For grad_query and grad_key at least over the norm that they
  /// would have if dO.v and its mean did not cancel: a row with one key has the gradient 0 and the rounding
  /// of their difference.
  double out = 0, grad_query = 0, grad_key = 0, grad_value = 0;
  /// The same, but over the norm of what the gradient would be without any cancellation of its terms: for
  /// inputs whose gradients are sums that vanish.
  double grad_query_of_terms = 0, grad_key_of_terms = 0, grad_value_of_terms = 0;
  double tau =
      0;  ///< largest |got - expected| less what rounding the largest score of the row to fp32 explains
  double mass = 0;  ///< largest |sum p - 1| from the tau that was got, less the same
  /// Largest z - tau in a tile whose bit is clear, less the same: positive means that a weight was dropped.
  double hidden_excess = -std::numeric_limits<double>::infinity();
  bool unseen_rows_are_empty = true;                        ///< rows without keys: out 0, tau infinite
  double zero_tiles = 0, tiles = 0, support = 0, rows = 0;  ///< as expected
};

/// All tensors of `in` and `got` on one device.
EntmaxErrors compare_with_dense(const Inputs& in, const EntmaxCase& call, const EntmaxResults& got);

/// Most that an implementation may be off by, in the order of EntmaxErrors.
struct EntmaxTolerance {
  double out, grad_query, grad_key, grad_value;
  double tau = 1e-3, mass = 1e-3;
};

/// Fails where errors exceed the tolerance. of_terms: gradients are held against the size of their terms.
void expect_within(const EntmaxErrors& errors, const EntmaxTolerance& tolerance, bool of_terms = false);

}  // namespace asplash::test
