#include "asplash/ops/entmax_attention_cuda.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "asplash/kernels/entmax_rows.h"

namespace asplash::ops {

at::Tensor entmax_weights_cuda(at::Tensor& z, const at::Tensor& visible, double exponent) {
  const c10::cuda::CUDAGuard on_device(z.device());
  const at::Tensor tau = at::empty({z.size(0), z.size(1), z.size(2)}, z.options());
  kernels::EntmaxRowsParams params;
  params.scores = z.data_ptr();
  params.double_precision = z.scalar_type() == at::kDouble;
  params.rows = tau.numel();
  params.columns = z.size(3);
  params.row_stride = z.size(3);
  params.last = visible.const_data_ptr<int64_t>();
  params.range_rows = visible.size(0);
  params.exponent = exponent;
  params.tau = tau.data_ptr();
  C10_CUDA_CHECK(kernels::entmax_rows(params, c10::cuda::getCurrentCUDAStream()));
  return tau;
}

}  // namespace asplash::ops
