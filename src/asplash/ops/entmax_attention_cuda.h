#pragma once

#include <ATen/ATen.h>

namespace asplash::ops {

/// z [heads, group, queries, keys] (contiguous, fp32 or fp64, CUDA) -> p in place, by kernels::entmax_rows on
/// the current stream. visible: int64 [queries], the number of leading keys that each query sees. exponent is
/// 1 / (alpha - 1). Returns tau [heads, group, queries].
at::Tensor entmax_weights_cuda(at::Tensor& z, const at::Tensor& visible, double exponent);

}  // namespace asplash::ops
