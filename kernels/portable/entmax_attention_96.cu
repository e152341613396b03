// The entmax attention kernels for heads of 96.

#include "portable/entmax_kernels_impl.cuh"

namespace asplash::kernels::portable {

template KernelSet kernel_set<96>(ElementType);

}  // namespace asplash::kernels::portable
