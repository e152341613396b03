#pragma once

#include <cuda_runtime_api.h>

#include "asplash/kernels/entmax_attention.h"

/// Entmax attention of fp32 tensors, multiplied and added in fp32 on the CUDA cores: the check of the
/// tensor-core kernels, and the path of small fp32 models.
namespace asplash::kernels::portable {

struct Launch;

/// Enqueue on the stream. row_tile_begin and key_tile_begin must be filled where there are cu_seqlens; the
/// backward writes delta.
cudaError_t entmax_forward_fp32(const Launch& launch, cudaStream_t stream);
cudaError_t entmax_backward_fp32(const Launch& launch, cudaStream_t stream);

/// Largest dynamic shared memory of one block of these kernels, bytes.
int entmax_fp32_shared_bytes(const EntmaxAttentionShape& shape);

}  // namespace asplash::kernels::portable
