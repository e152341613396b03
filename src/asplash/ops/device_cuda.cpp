#include "asplash/ops/device_cuda.h"

#include <cuda_runtime_api.h>

#include "asplash/base/error.h"

namespace asplash::ops {

int cuda_device_count() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess ? devices : 0;
}

std::string why_no_cuda() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  return error == cudaSuccess ? "this machine has no CUDA device"
                              : str("no CUDA device can be used (", cudaGetErrorString(error), ")");
}

CudaDevice cuda_device_properties(int index) {
  cudaDeviceProp properties{};
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) fail("cuda:", index, ": ", cudaGetErrorString(error));
  return {properties.name, static_cast<int64_t>(properties.totalGlobalMem)};
}

}  // namespace asplash::ops
