#include "asplash/base/error.h"
#include "asplash/ops/device_cuda.h"

namespace asplash::ops {

int cuda_device_count() { return 0; }

std::string why_no_cuda() { return "this build has no CUDA parts (ASPLASH_CUDA=OFF)"; }

CudaDevice cuda_device_properties(int index) { fail("cuda:", index, ": ", why_no_cuda()); }

}  // namespace asplash::ops
