#include "asplash/train/batch_transfer.h"

#include <ATen/ATen.h>

namespace asplash::train {
namespace {

at::Tensor copy_to(const std::shared_ptr<int32_t>& values, const data::Batch& batch,
                   const at::Device& device) {
  const auto keep_alive = [values](void*) {};
  const at::Tensor host =
      at::from_blob(values.get(), {batch.rows, batch.context}, keep_alive, at::TensorOptions(at::kInt));
  return host.to(device, at::kInt, /*non_blocking=*/true);
}

}  // namespace

data::HostAllocator host_allocator(const ops::DeviceInfo& device) {
  if (!device.is_cuda) return {};
  // libtorch's caching allocator gives memory to a new owner only after copies from it have ended.
  return [](size_t bytes) {
    const at::Tensor memory =
        at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(true));
    return std::shared_ptr<void>(memory.data_ptr(), [memory](void*) {});
  };
}

DeviceBatch to_device(const data::Batch& batch, const ops::DeviceInfo& device) {
  const at::Device target(device.name);
  DeviceBatch result;
  result.input.tokens = copy_to(batch.tokens, batch, target);
  result.input.cu_seqlens = batch.cu_seqlens;
  result.targets = copy_to(batch.targets, batch, target);
  return result;
}

}  // namespace asplash::train
