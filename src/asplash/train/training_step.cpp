#include "asplash/train/training_step.h"

#include <ATen/ATen.h>

#include "asplash/base/error.h"
#include "asplash/ops/entmax_attention.h"
#include "asplash/train/batch_transfer.h"

namespace asplash::train {
namespace {

int64_t count_valid(const std::vector<data::Batch>& micro_batches) {
  int64_t valid = 0;
  for (const data::Batch& batch : micro_batches) valid += batch.valid_targets;
  if (valid == 0) {
    const data::Position position = micro_batches.at(0).position;
    fail("the step from epoch ", position.epoch, ", sample ", position.sample, " has no token to predict");
  }
  return valid;
}

}  // namespace

at::Tensor training_step(model::LanguageModel& model, optim::AdamW& optimizer,
                         const std::vector<data::Batch>& micro_batches, const ops::DeviceInfo& device,
                         double lr, bool statistics) {
  const int64_t valid_targets = count_valid(micro_batches);
  const double scale = 1.0 / static_cast<double>(valid_targets);
  const at::TensorOptions numbers(at::Device(device.name));
  at::Tensor loss = at::zeros({}, numbers.dtype(at::kDouble));
  model::AttentionStatistics attention;

  optimizer.zero_grad();
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    const DeviceBatch batch = to_device(micro_batches[i], device);
    const bool wants_statistics = statistics && i == 0;
    const at::Tensor loss_sum =
        model.loss_sum(batch.input, batch.targets, wants_statistics ? &attention : nullptr);
    (loss_sum * scale).backward();
    loss.add_(loss_sum.detach().to(at::kDouble), scale);
  }
  const optim::StepResult result = optimizer.step(lr, loss);

  const at::Tensor summary =
      at::stack({loss, result.grad_norm.to(at::kDouble), result.skipped.to(at::kDouble)});
  const at::Tensor per_layer = attention.per_layer;
  return at::cat({summary, per_layer.defined()
                               ? per_layer.sum(0).to(at::kDouble)
                               : at::zeros({ops::kEntmaxStatistics}, numbers.dtype(at::kDouble))});
}

std::vector<StepNumbers> read_numbers(const std::vector<at::Tensor>& steps) {
  std::vector<StepNumbers> result;
  if (steps.empty()) return result;
  const at::Tensor host = at::stack(steps).cpu();
  const auto values = host.accessor<double, 2>();
  for (int64_t i = 0; i < values.size(0); ++i) {
    const auto row = values[i];
    result.push_back(
        {row[0], row[1], row[2] != 0, row[3], row[4], row[5], row[6], {row[7], row[8], row[9], row[10]}});
  }
  return result;
}

}  // namespace asplash::train
