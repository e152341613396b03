#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "asplash/checkpoint/checkpoint.h"
#include "train/small_run.h"

namespace asplash::train {
namespace {

class TrainGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: GPU tests skipped";
  }

  static std::vector<double> losses_of(const SmallRun& small) {
    std::vector<double> losses;
    for (const auto& line : metrics_of(small.run_folder())) {
      if (!line.contains("event")) losses.push_back(line["loss"].get<double>());
    }
    return losses;
  }
};

TEST_F(TrainGpu, FollowsTheCpu) {
  const SmallRun host, device, mixed;
  host.train({"model.attention.function=softmax"});
  device.train({"model.attention.function=softmax", "train.device=cuda", "train.precision=fp32"});
  mixed.train({"model.attention.function=softmax", "train.device=cuda"});
  const auto a = losses_of(host), b = losses_of(device), c = losses_of(mixed);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], i < 10 ? 1e-3 : 1e-2) << i;
    EXPECT_NEAR(a[i], c[i], 0.1) << i;
  }
  EXPECT_NE(read_file(mixed.run_folder() + "/config.yaml").find("bf16"), std::string::npos);
}

TEST_F(TrainGpu, KernelsFollowTheReference) {
  const SmallRun kernels, reference, mixed;
  kernels.train({"train.device=cuda", "train.precision=fp32"});
  reference.train({"train.device=cuda", "train.precision=fp32", "model.attention.implementation=reference"});
  mixed.train({"train.device=cuda"});
  const auto a = losses_of(kernels), b = losses_of(reference), c = losses_of(mixed);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], i < 10 ? 1e-3 : 1e-2) << i;
    EXPECT_NEAR(a[i], c[i], 0.1) << i;
  }
  for (const auto& line : metrics_of(kernels.run_folder())) {
    if (!line.contains("mean_support")) continue;
    EXPECT_GE(line.value("mean_passes", 0.0), 1.0) << line;
  }
}

TEST_F(TrainGpu, HeadSizesWithoutKernelsAreRefusedByKey) {
  const SmallRun small;
  try {
    small.train({"train.device=cuda", "model.head_dim=16"});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("model.head_dim: 16 has no CUDA kernels"), std::string::npos)
        << error.what();
  }
  small.train({"train.device=cuda", "model.head_dim=16", "model.attention.implementation=reference"});
}

TEST_F(TrainGpu, LearnsWithEntmaxAndResumes) {
  const SmallRun small;
  small.train({"train.device=cuda", "train.checkpoint_every=10"});
  const auto straight = losses_of(small);
  EXPECT_LT(straight.back(), 0.9 * straight.front());
  std::filesystem::remove_all(checkpoint::path_of_step(small.run_folder(), 20));
  small.train({"train.device=cuda"});
  const auto resumed = losses_of(small);
  ASSERT_EQ(resumed.size(), straight.size());
  for (size_t i = 0; i < straight.size(); ++i) EXPECT_NEAR(resumed[i], straight[i], 1e-2) << i;
}

TEST_F(TrainGpu, ResumesBitForBitInDeterministicMode) {
  const std::vector<std::vector<std::string>> variants = {
      {"data.documents=packed"},
      {"model.attention.function=softmax"},
      {"train.precision=fp32", "train.micro_batch=16", "optim.schedule=linear"},
  };
  for (std::vector<std::string> overrides : variants) {
    SCOPED_TRACE(overrides.front());
    overrides.insert(overrides.end(),
                     {"train.device=cuda", "train.deterministic=true", "train.evaluate_every=6"});
    const SmallRun straight, halves;
    straight.train(overrides);
    overrides.insert(overrides.end(), {"train.checkpoint_every=5", "train.keep_checkpoints=20"});
    halves.train(overrides);
    for (const int64_t step : {12, 15, 18, 20}) std::filesystem::remove_all(halves.checkpoint(step));
    halves.train(overrides);
    EXPECT_NE(halves.log().find("resumed from " + halves.checkpoint(10)), std::string::npos);
    expect_same_checkpoints(straight.checkpoint(20), halves.checkpoint(20));
    EXPECT_EQ(reproducible_metrics(straight.run_folder()), reproducible_metrics(halves.run_folder()));
  }
}

}  // namespace
}  // namespace asplash::train
