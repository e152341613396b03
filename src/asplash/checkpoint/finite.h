#pragma once

#include <string>

#include "asplash/base/error.h"
#include "asplash/checkpoint/safetensors.h"

namespace asplash::checkpoint {

/// Weights or moments that hold NaN or infinity: nothing that could be gone on from.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

/// "" if all values are finite, else "NAME holds 3 values of 4,096 that are not finite, the first at 17" for
/// the first such tensor. Reads fp32 and fp64 tensors (any device; others cannot be a weight or a moment and
/// are passed over) on the calling thread alone, so that it can run beside training.
std::string find_not_finite(const NamedTensors& tensors);

}  // namespace asplash::checkpoint
