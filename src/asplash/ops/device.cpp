#include "asplash/ops/device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/ops/device_cuda.h"

namespace asplash::ops {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

int64_t machine_memory_bytes() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_bytes > 0 ? pages * page_bytes : 0;
}

DeviceInfo cpu_device() {
  DeviceInfo info;
  info.name = "cpu";
  info.description = cpu_model();
  info.memory_bytes = machine_memory_bytes();
  info.threads = at::get_num_threads();
  return info;
}

/// Dense bf16 rates of NVIDIA's datasheets (without sparsity), most specific name first.
double peak_bf16_flops_of(const std::string& gpu) {
  static constexpr std::pair<const char*, double> kRates[] = {
      {"B200", 2250e12},        {"GH200", 989e12},    {"H200", 989e12},      {"H100 PCIe", 756e12},
      {"H100 NVL", 835e12},     {"H100", 989e12},     {"H800", 989e12},      {"H20", 148e12},
      {"A100", 312e12},         {"A800", 312e12},     {"A40", 149.7e12},     {"A30", 165e12},
      {"A10", 125e12},          {"L40S", 362e12},     {"L40", 181e12},       {"L4", 121e12},
      {"RTX 6000 Ada", 364e12}, {"RTX 4090", 165e12}, {"RTX 4080", 97.5e12}, {"RTX 3090", 71e12},
      {"RTX A6000", 155e12},
  };
  for (const auto& [name, rate] : kRates) {
    if (gpu.find(name) != std::string::npos) return rate;
  }
  return 0;
}

DeviceInfo cuda_device(int index) {
  const CudaDevice found = cuda_device_properties(index);
  DeviceInfo info;
  info.name = str("cuda:", index);
  info.description = found.name;
  info.is_cuda = true;
  info.memory_bytes = found.memory_bytes;
  info.threads = at::get_num_threads();
  info.peak_bf16_flops = peak_bf16_flops_of(found.name);
  return info;
}

int cuda_index(const std::string& wanted, int devices) {
  if (wanted == "cuda") return 0;
  const std::string digits = wanted.substr(std::string("cuda:").size());
  if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) {
    fail("device '", wanted, "': must be auto, cpu, cuda, or cuda:N");
  }
  const int index = std::stoi(digits);
  if (index >= devices) {
    fail("device '", wanted, "': this machine has ", devices, " CUDA device", devices == 1 ? "" : "s",
         " (cuda:0 to cuda:", devices - 1, ")");
  }
  return index;
}

c10::DeviceIndex index_of(const DeviceInfo& device) { return at::Device(device.name).index(); }

}  // namespace

DeviceInfo choose_device(const std::string& wanted) {
  if (wanted == "cpu") return cpu_device();
  const int devices = cuda_device_count();
  if (wanted == "auto") return devices > 0 ? cuda_device(0) : cpu_device();
  if (wanted != "cuda" && wanted.rfind("cuda:", 0) != 0) {
    fail("device '", wanted, "': must be auto, cpu, cuda, or cuda:N");
  }
  if (devices == 0) fail("device '", wanted, "': ", why_no_cuda(), "; use auto or cpu");
  return cuda_device(cuda_index(wanted, devices));
}

void prepare_cpu(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  // MKL's vector functions choose their code at their first call. Where that comes from several threads at
  // once, one of them may compute by another: about one run in thirty then began with other gradients, by up
  // to 1e-5.
  for (const auto type : {at::kFloat, at::kDouble}) {
    const at::Tensor one = at::full({1}, 0.5, type);  // one element: this thread alone
    for (const auto& function :
         {at::exp, at::expm1, at::log, at::log1p, at::sin, at::cos, at::tanh, at::sqrt, at::rsqrt, at::erf})
      function(one);
  }
}

void synchronize(const DeviceInfo& device) {
  if (!device.is_cuda) return;
  try {
    at::accelerator::synchronizeDevice(index_of(device));
  } catch (const c10::Error& error) {
    fail(device.name, ": ", error.what_without_backtrace());
  }
}

int64_t peak_memory_bytes(const DeviceInfo& device) {
  if (device.is_cuda) {
    const auto total = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return at::accelerator::getDeviceStats(index_of(device)).reserved_bytes.at(total).peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

void set_deterministic(bool on) {
  // libtorch refuses deterministic cuBLAS calls unless this is set before the first of them.
  if (on) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
  at::globalContext().setDeterministicCuDNN(on);
  at::globalContext().setBenchmarkCuDNN(!on);
}

}  // namespace asplash::ops
