#include "asplash/ops/device.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "asplash/base/error.h"

namespace asplash::test {
namespace {

TEST(Device, Cpu) {
  const ops::DeviceInfo cpu = ops::choose_device("cpu");
  EXPECT_EQ(cpu.name, "cpu");
  EXPECT_FALSE(cpu.is_cuda);
  EXPECT_FALSE(cpu.description.empty());
  EXPECT_GT(cpu.memory_bytes, int64_t{1} << 28);
  EXPECT_GE(cpu.threads, 1);
  EXPECT_GT(ops::peak_memory_bytes(cpu), int64_t{1} << 20);
  ops::synchronize(cpu);
}

TEST(Device, AutoIsWhatThereIs) { EXPECT_EQ(ops::choose_device("auto").is_cuda, at::hasCUDA()); }

TEST(Device, NamesThatMeanNothingAreRefused) {
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99", "cuda:123456789123", "CPU"}) {
    EXPECT_THROW(ops::choose_device(name), Error) << name;
  }
}

TEST(Device, WithoutCudaTheReasonIsGiven) {
  if (at::hasCUDA()) GTEST_SKIP() << "there is a CUDA device";
  try {
    ops::choose_device("cuda");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("use auto or cpu"), std::string::npos) << error.what();
  }
}

TEST(DeviceGpu, IsDescribed) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  const ops::DeviceInfo gpu = ops::choose_device("cuda");
  EXPECT_EQ(gpu.name, "cuda:0");
  EXPECT_TRUE(gpu.is_cuda);
  EXPECT_NE(gpu.description.find("NVIDIA"), std::string::npos) << gpu.description;
  const at::Tensor block = at::zeros({1 << 20}, at::TensorOptions(at::Device(gpu.name)).dtype(at::kFloat));
  ops::synchronize(gpu);
  EXPECT_GE(ops::peak_memory_bytes(gpu), int64_t{1} << 22);
  EXPECT_GT(gpu.memory_bytes, ops::peak_memory_bytes(gpu));
}

}  // namespace
}  // namespace asplash::test
