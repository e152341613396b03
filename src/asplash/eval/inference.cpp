#include "asplash/eval/inference.h"

#include "asplash/base/error.h"

namespace asplash::eval {

Inference choose_inference(const std::string& device, const std::string& precision, int64_t threads) {
  if (precision != "automatic" && precision != "fp32" && precision != "bf16")
    fail("precision '", precision, "': must be automatic, fp32 or bf16");
  if (threads < 0) fail("threads ", threads, ": must be at least 1, or 0 for libtorch's choice");
  ops::prepare_cpu(threads);
  const ops::DeviceInfo info = ops::choose_device(device);
  const bool bf16 = precision == "bf16" || (precision == "automatic" && info.is_cuda);
  return {info, bf16 ? c10::kBFloat16 : c10::kFloat, bf16 ? "bf16" : "fp32"};
}

}  // namespace asplash::eval
