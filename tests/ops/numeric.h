#pragma once

#include <ATen/ATen.h>

namespace asplash::test {

/// max |a - b| / max |b|, in fp64, or max |a| where b is zero; NaN anywhere gives NaN.
inline double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor left = a.detach().to(at::kCPU, at::kDouble), right = b.detach().to(at::kCPU, at::kDouble);
  const double size = right.abs().max().item<double>();
  return (left - right).abs().max().item<double>() / (size == 0 ? 1 : size);
}

}  // namespace asplash::test
