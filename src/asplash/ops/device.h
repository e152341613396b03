#pragma once

#include <cstdint>
#include <string>

/// The device a program computes on. No libtorch types here.
namespace asplash::ops {

struct DeviceInfo {
  std::string name;         ///< what libtorch calls it: "cpu", "cuda:0"
  std::string description;  ///< "NVIDIA H100 80GB HBM3", or the CPU's model name
  bool is_cuda = false;
  int64_t memory_bytes = 0;    ///< of the device (the machine's memory for the CPU)
  int threads = 0;             ///< intra-op threads (CPU)
  double peak_bf16_flops = 0;  ///< dense tensor-core rate by datasheet; 0: unknown (MFU is then not shown)
};

/// "auto": the GPU where there is one, otherwise the CPU; "cpu"; "cuda"; "cuda:N". Throws asplash::Error that
/// says what was asked and what there is.
DeviceInfo choose_device(const std::string& wanted);

/// Intra-op threads of the CPU; 0 leaves libtorch's own choice. Call before the first operator, and before
/// other threads use libtorch: results are then the same bits in every process, from the first operator on.
void prepare_cpu(int64_t threads);

/// Waits for the device's work. Throws asplash::Error on an asynchronous failure.
void synchronize(const DeviceInfo& device);

/// Bytes that libtorch's allocator holds at most so far on a GPU; the process's peak resident set on the CPU.
int64_t peak_memory_bytes(const DeviceInfo& device);

/// cuDNN/cuBLAS/ATen deterministic mode.
void set_deterministic(bool on);

}  // namespace asplash::ops
