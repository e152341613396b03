#include "asplash/train/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "asplash/data/loader.h"
#include "asplash/data/window_reader.h"
#include "asplash/train/batch_transfer.h"

namespace asplash::train {
namespace {

data::LoaderOptions in_order(const RunConfig& config, int64_t rows) {
  data::LoaderOptions options;
  options.context = config.data.context;
  options.rows = rows;
  options.packed = config.data.documents == DocumentMode::packed;
  options.prefetch = 2;
  options.shuffle = false;
  return options;
}

}  // namespace

ValidationResult validate(model::LanguageModel& model, const data::TokenDataset& dataset,
                          const RunConfig& config, const ops::DeviceInfo& device) {
  const int64_t available = data::WindowReader::count(dataset, config.data.context);
  const int64_t wanted = std::max<int64_t>(1, config.train.evaluate_tokens / config.data.context);
  const int64_t windows = std::min(available, wanted);

  const at::NoGradGuard no_grad;
  at::Tensor sum = at::zeros({}, at::TensorOptions(at::Device(device.name)).dtype(at::kDouble));
  ValidationResult result;
  // Whole micro-batches, then a smaller one of what is left.
  for (int64_t done = 0; done < windows;) {
    const int64_t rows = std::min(windows - done, config.micro_batch());
    data::Loader loader(dataset, in_order(config, rows), {0, done}, host_allocator(device));
    for (; done + rows <= windows; done += rows) {
      const data::Batch batch = loader.next();
      const DeviceBatch on_device = to_device(batch, device);
      sum.add_(model.loss_sum(on_device.input, on_device.targets).to(at::kDouble));
      result.target_tokens += batch.valid_targets;
    }
  }
  result.loss = sum.item<double>() / static_cast<double>(std::max<int64_t>(result.target_tokens, 1));
  return result;
}

}  // namespace asplash::train
