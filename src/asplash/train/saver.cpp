#include "asplash/train/saver.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <memory>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/checkpoint/finite.h"
#include "asplash/ops/device.h"

namespace asplash::train {
namespace {

/// Copies that share no memory with what is trained. Pinned for a GPU: libtorch's allocator keeps that memory
/// for the next save, and the copies overlap.
checkpoint::NamedTensors host_copies(const checkpoint::NamedTensors& tensors, bool pinned) {
  const at::NoGradGuard no_grad;
  checkpoint::NamedTensors copies;
  for (const auto& [name, tensor] : tensors) {
    at::Tensor copy =
        at::empty(tensor.sizes(), at::TensorOptions(tensor.scalar_type()).pinned_memory(pinned));
    copy.copy_(tensor, /*non_blocking=*/pinned);
    copies.emplace_back(name, std::move(copy));
  }
  return copies;
}

std::string newest_kept(const std::string& run_folder) {
  const checkpoint::Listing found = checkpoint::newest(run_folder);
  return found.complete.empty() ? "there is no earlier checkpoint"
                                : "the newest whole checkpoint is " + found.complete.front();
}

}  // namespace

void Saver::save(checkpoint::Contents contents) {
  task_.wait();
  check();
  if (!metrics_.is_complete()) {
    handle(std::make_exception_ptr(Error("the lines of metrics.jsonl up to it cannot be written")), false);
    return;
  }
  contents.model = host_copies(contents.model, setup_.device.is_cuda);
  contents.optimizer = host_copies(contents.optimizer, setup_.device.is_cuda);
  ops::synchronize(setup_.device);
  const std::string path = checkpoint::path_of_step(setup_.config.train.output, contents.state.step);
  const auto shared = std::make_shared<const checkpoint::Contents>(std::move(contents));
  task_.start([this, shared, path] { write(*shared, path); });
}

void Saver::check() {
  if (const std::exception_ptr error = task_.take_error()) handle(error, /*last=*/false);
}

void Saver::finish() {
  task_.wait();
  if (const std::exception_ptr error = task_.take_error()) handle(error, /*last=*/true);
}

void Saver::write(const checkpoint::Contents& contents, const std::string& path) const {
  const TrainConfig& train = setup_.config.train;
  metrics_.sync();
  checkpoint::save(path, contents);
  log::info("checkpoint " + path);
  try {
    const int64_t best = train.keep_best ? contents.state.best_step : -1;
    for (const std::string& removed : checkpoint::prune(train.output, train.keep_checkpoints, best)) {
      log::file_only("removed the old checkpoint " + removed);
    }
  } catch (const std::exception& error) {
    log::warning(error.what());
  }
}

void Saver::handle(const std::exception_ptr& error, bool last) {
  const TrainConfig& train = setup_.config.train;
  try {
    std::rethrow_exception(error);
  } catch (const checkpoint::NotFiniteError& problem) {
    fail("training stopped: ", problem.what(), "; ", newest_kept(train.output));
  } catch (const std::exception& problem) {
    const std::string text =
        str("a checkpoint could not be saved: ", problem.what(), "; ", newest_kept(train.output));
    if (last) fail(text);
    if (train.on_failed_write == OnFailedWrite::stop) fail("training stopped: ", text);
    log::warning(text + "; training goes on (train.on_failed_write), the next save tries again");
  }
}

}  // namespace asplash::train
