#pragma once

#include <c10/core/ScalarType.h>

#include <string>

#include "asplash/ops/device.h"

namespace asplash::eval {

/// Where and how precisely a program that only runs a model computes.
struct Inference {
  ops::DeviceInfo device;
  c10::ScalarType compute_type;
  std::string precision;  ///< "fp32" or "bf16"
};

/// device as for ops::choose_device; precision: automatic (bf16 on a GPU, fp32 on the CPU), fp32 or bf16.
/// Throws asplash::Error for another word.
Inference choose_inference(const std::string& device, const std::string& precision, int64_t threads);

}  // namespace asplash::eval
