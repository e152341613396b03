#include "asplash/train/training_step.h"

#include <gtest/gtest.h>

#include <limits>

#include "asplash/optim/adamw.h"
#include "asplash/train/guard.h"
#include "train/bigram_model.h"

namespace asplash::train {
namespace {

constexpr int64_t kVocab = 13, kRows = 8, kContext = 16;

ops::DeviceInfo cpu() {
  ops::DeviceInfo device;
  device.name = "cpu";
  return device;
}

/// Rows [first, first + rows) of one made-up step; some targets are not counted, unevenly over the rows.
data::Batch rows_of_step(int64_t first, int64_t rows) {
  data::Batch batch;
  batch.rows = rows;
  batch.context = kContext;
  const auto count = static_cast<size_t>(rows * kContext);
  batch.tokens = std::shared_ptr<int32_t>(new int32_t[count], std::default_delete<int32_t[]>());
  batch.targets = std::shared_ptr<int32_t>(new int32_t[count], std::default_delete<int32_t[]>());
  for (size_t i = 0; i < count; ++i) {
    const int64_t at = first * kContext + static_cast<int64_t>(i);
    batch.tokens.get()[i] = static_cast<int32_t>((at * at + 3) % kVocab);
    const bool ignored = at % (2 + at / kContext) == 0;
    batch.targets.get()[i] = ignored ? data::kIgnoredTarget : static_cast<int32_t>((at * 7 + 1) % kVocab);
    batch.valid_targets += ignored ? 0 : 1;
  }
  return batch;
}

std::vector<data::Batch> step_in(int64_t micro_batches) {
  std::vector<data::Batch> batches;
  const int64_t rows = kRows / micro_batches;
  for (int64_t i = 0; i < micro_batches; ++i) batches.push_back(rows_of_step(i * rows, rows));
  return batches;
}

StepNumbers run_step(BigramModel& model, optim::AdamW& optimizer, int64_t micro_batches) {
  return read_numbers({training_step(model, optimizer, step_in(micro_batches), cpu(), 0.05, false)}).at(0);
}

TEST(TrainingStep, AccumulationGivesTheSameLossesAndWeights) {
  BigramModel one(kVocab), four(kVocab);
  optim::AdamW optimizer_one(one.parameters(), {}), optimizer_four(four.parameters(), {});
  for (int step = 0; step < 20; ++step) {
    const StepNumbers a = run_step(one, optimizer_one, 1), b = run_step(four, optimizer_four, 4);
    EXPECT_NEAR(a.loss, b.loss, 1e-5) << step;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5) << step;
  }
  EXPECT_TRUE(at::allclose(one.parameters()[0].value, four.parameters()[0].value, 1e-4, 1e-5));
}

TEST(TrainingStep, LossIsTheMeanOverValidTargets) {
  BigramModel model(kVocab);
  optim::AdamW optimizer(model.parameters(), {});
  double sum = 0;
  int64_t valid = 0;
  for (const data::Batch& batch : step_in(4)) {
    model::ModelInput input;
    input.tokens = at::from_blob(batch.tokens.get(), {batch.rows, batch.context}, at::kInt);
    const at::Tensor targets = at::from_blob(batch.targets.get(), {batch.rows, batch.context}, at::kInt);
    sum += model.loss_sum(input, targets, nullptr).item<double>();
    valid += batch.valid_targets;
  }
  EXPECT_NEAR(run_step(model, optimizer, 4).loss, sum / static_cast<double>(valid), 1e-6);
}

TEST(TrainingStep, Learns) {
  BigramModel model(kVocab);
  optim::AdamW optimizer(model.parameters(), {});
  const double first = run_step(model, optimizer, 2).loss;
  double last = first;
  for (int step = 0; step < 60; ++step) last = run_step(model, optimizer, 2).loss;
  EXPECT_LT(last, 0.8 * first);
}

TEST(TrainingStep, BadLossOrGradientNeverReachesTheWeights) {
  BigramModel model(kVocab);
  optim::AdamW optimizer(model.parameters(), {});
  run_step(model, optimizer, 2);
  const at::Tensor before = model.parameters()[0].value.detach().clone();

  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    model.poison = poison;
    const StepNumbers numbers = run_step(model, optimizer, 2);
    EXPECT_TRUE(numbers.skipped);
    EXPECT_FALSE(std::isfinite(numbers.loss));
    EXPECT_TRUE(at::equal(model.parameters()[0].value, before));
  }
  model.poison = 0;
  model.infinite_gradient = true;
  const StepNumbers numbers = run_step(model, optimizer, 2);
  EXPECT_TRUE(numbers.skipped);
  EXPECT_TRUE(std::isfinite(numbers.loss));
  EXPECT_FALSE(std::isfinite(numbers.grad_norm));
  EXPECT_TRUE(at::equal(model.parameters()[0].value, before));

  model.infinite_gradient = false;
  EXPECT_FALSE(run_step(model, optimizer, 2).skipped);
  EXPECT_FALSE(at::equal(model.parameters()[0].value, before));
}

TEST(TrainingStep, RefusesAStepWithoutTargets) {
  BigramModel model(kVocab);
  optim::AdamW optimizer(model.parameters(), {});
  std::vector<data::Batch> batches = step_in(2);
  for (data::Batch& batch : batches) batch.valid_targets = 0;
  EXPECT_THROW(training_step(model, optimizer, batches, cpu(), 0.05, false), Error);
}

}  // namespace
}  // namespace asplash::train
