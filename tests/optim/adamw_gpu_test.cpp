#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "asplash/optim/adamw.h"

namespace asplash::optim {
namespace {

class AdamWGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
    at::manual_seed(5);
    for (const auto& [name, value] : host_)
      device_.push_back({name, value.detach().cuda().requires_grad_(true)});
  }

  void set_gradients(double scale) {
    for (size_t i = 0; i < host_.size(); ++i) {
      const at::Tensor gradient = at::randn(host_[i].value.sizes()) * scale;
      host_[i].value.mutable_grad() = gradient.clone();
      device_[i].value.mutable_grad() = gradient.cuda();
    }
  }

  std::vector<model::Parameter> host_ = {
      {"model.embed_tokens.weight", at::randn({500, 64}).requires_grad_(true)},
      {"model.norm.weight", at::randn({64}).requires_grad_(true)}};
  std::vector<model::Parameter> device_;
};

TEST_F(AdamWGpu, EqualsTheCpu) {
  AdamW host(host_, {}), device(device_, {});
  for (int step = 0; step < 8; ++step) {
    set_gradients(step % 2 == 0 ? 1e-3 : 2.0);
    const StepResult a = host.step(1e-2, at::scalar_tensor(1.0));
    const StepResult b = device.step(1e-2, at::scalar_tensor(1.0).cuda());
    EXPECT_NEAR(a.grad_norm.item<float>(), b.grad_norm.item<float>(), 1e-5 * a.grad_norm.item<float>());
  }
  for (size_t i = 0; i < host_.size(); ++i) {
    EXPECT_TRUE(at::allclose(host_[i].value, device_[i].value.cpu(), 1e-5, 1e-6)) << host_[i].name;
  }
}

TEST_F(AdamWGpu, NonFiniteLossOrGradientChangesNothing) {
  AdamW optimizer(device_, {});
  set_gradients(1);
  optimizer.step(1e-2, at::scalar_tensor(1.0).cuda());
  const at::Tensor before = device_[0].value.detach().clone();
  set_gradients(1);
  const at::Tensor nan = at::scalar_tensor(std::numeric_limits<float>::quiet_NaN()).cuda();
  EXPECT_EQ(optimizer.step(1e-2, nan).skipped.item<float>(), 1);
  device_[1].value.grad()[3] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(optimizer.step(1e-2, at::scalar_tensor(1.0).cuda()).skipped.item<float>(), 1);
  EXPECT_TRUE(at::equal(device_[0].value, before));
  EXPECT_EQ(optimizer.state().back().second.item<float>(), 1);
}

}  // namespace
}  // namespace asplash::optim
