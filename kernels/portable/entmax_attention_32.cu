// The entmax attention kernels for heads of 32.

#include "portable/entmax_kernels_impl.cuh"

namespace asplash::kernels::portable {

template KernelSet kernel_set<32>(ElementType);

}  // namespace asplash::kernels::portable
