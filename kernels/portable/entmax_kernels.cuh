#pragma once

#include "portable/launch.cuh"

/// Launchers of one head dimension; each is compiled in a file of its own.
namespace asplash::kernels::portable {

struct KernelSet {
  int (*forward_shared)(const EntmaxAttentionShape&);  ///< bytes of dynamic shared memory
  int backward_shared;                                 ///< with one stage
  cudaError_t (*forward)(const Launch&, cudaStream_t);
  cudaError_t (*backward)(const Launch&, cudaStream_t);
};

/// Of the current device.
inline cudaError_t device_attribute(int& value, cudaDeviceAttr attribute) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(&value, attribute, device);
}

template <int head_dim>
KernelSet kernel_set(ElementType type);

extern template KernelSet kernel_set<32>(ElementType);
extern template KernelSet kernel_set<64>(ElementType);
extern template KernelSet kernel_set<96>(ElementType);
extern template KernelSet kernel_set<128>(ElementType);
extern template KernelSet kernel_set<256>(ElementType);

}  // namespace asplash::kernels::portable
