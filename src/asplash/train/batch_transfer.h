#pragma once

#include <ATen/core/Tensor.h>

#include "asplash/data/loader.h"
#include "asplash/model/language_model.h"
#include "asplash/ops/device.h"

namespace asplash::train {

/// Host memory for batches: pinned where the device is a GPU, so that copies need not wait.
data::HostAllocator host_allocator(const ops::DeviceInfo& device);

struct DeviceBatch {
  model::ModelInput input;  ///< tokens [rows, context] int32 on the device
  at::Tensor targets;       ///< [rows, context] int32 on the device
};

/// Copies a batch to the device, without waiting for the copy. On the CPU the tensors share the batch's
/// memory.
DeviceBatch to_device(const data::Batch& batch, const ops::DeviceInfo& device);

}  // namespace asplash::train
