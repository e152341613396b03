#pragma once

#include <ATen/ATen.h>

#include "asplash/ops/entmax_problem.h"

/// Entmax attention by the CUDA kernels of kernels/, for bf16, fp16 and fp32. Nothing here waits for the
/// device or reads its memory; workspaces come from the caching allocator and go back to it, so that every
/// layer gets the same one. May be captured in a CUDA graph.
namespace asplash::ops {

/// Whether the GPU can run them; of query only device, dtype and the given head_dim are looked at. True on a
/// machine without any GPU, where only fake tensors can be on one.
bool entmax_kernels_run_on(const at::Tensor& query, int64_t head_dim);

/// cu_seqlens are not checked. for_backward: return means, too. Gradients lie in memory as their inputs do.
EntmaxForward entmax_forward_kernels(const EntmaxArguments& arguments, bool with_statistics,
                                     bool for_backward);
EntmaxBackward entmax_backward_kernels(const at::Tensor& grad_out, const at::Tensor& tau,
                                       const EntmaxMeans& means, const EntmaxArguments& arguments);

}  // namespace asplash::ops
