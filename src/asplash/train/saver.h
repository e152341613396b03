#pragma once

#include <string>

#include "asplash/checkpoint/background_task.h"
#include "asplash/checkpoint/checkpoint.h"
#include "asplash/train/metrics.h"
#include "asplash/train/setup.h"

namespace asplash::train {

/// Saves checkpoints beside training: the loop pays for the copy to host memory, a thread writes and removes
/// old ones. At most one is being written; the next one, and the end of the run, wait for it.
///
/// A save that fails leaves the earlier checkpoints as they are. With train.on_failed_write = continue the
/// next check() warns and training goes on; with stop it throws. Weights or moments that are not finite are
/// never saved and always end training.
class Saver {
 public:
  /// Both must outlive the saver.
  Saver(const Setup& setup, MetricsFile& metrics) : setup_(setup), metrics_(metrics) {}

  /// Saves `contents` (tensors on any device; they may be changed again once this returns) as the
  /// checkpoint of contents.state.step. The lines of metrics.jsonl reach the disk before it does; while they
  /// cannot be written, saving fails.
  void save(checkpoint::Contents contents);
  /// Hands over what a save that has ended threw; does not wait. To be called once a step.
  void check();
  /// Waits for the last save and throws what it threw.
  void finish();

 private:
  void handle(const std::exception_ptr& error, bool last);
  void write(const checkpoint::Contents& contents, const std::string& path) const;

  const Setup& setup_;
  MetricsFile& metrics_;
  checkpoint::BackgroundTask task_;
};

}  // namespace asplash::train
