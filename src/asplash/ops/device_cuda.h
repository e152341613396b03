#pragma once

#include <cstdint>
#include <string>

/// What the CUDA runtime knows of the machine's GPUs; device_without_cuda.cpp answers in a build without.
namespace asplash::ops {

struct CudaDevice {
  std::string name;
  int64_t memory_bytes = 0;
};

/// 0 where there is no GPU, no usable driver, or no CUDA in this build.
int cuda_device_count();
/// A clause for an error message: why cuda_device_count() is 0.
std::string why_no_cuda();
/// Throws asplash::Error if the driver does not answer.
CudaDevice cuda_device_properties(int index);

}  // namespace asplash::ops
