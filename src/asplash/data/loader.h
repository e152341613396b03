#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "asplash/data/dataset.h"
#include "asplash/data/sampler.h"

namespace asplash::data {

/// Targets with this value are not counted in the loss.
constexpr int32_t kIgnoredTarget = -100;

/// One micro-batch, in host memory. Row-major [rows, context].
struct Batch {
  int64_t rows = 0;
  int64_t context = 0;
  std::shared_ptr<int32_t> tokens;   ///< [rows, context]
  std::shared_ptr<int32_t> targets;  ///< [rows, context]; kIgnoredTarget where nothing is predicted
  int64_t valid_targets = 0;
  /// Packed mode: document boundaries over the flattened rows * context tokens, 0 first, rows * context last
  /// (a row's end is always a boundary). Empty in stream mode.
  std::vector<int32_t> cu_seqlens;
  Position position;   ///< of the first sample of the step this micro-batch belongs to
  double wait_ms = 0;  ///< how long next() waited for the prefetch thread
};

/// Allocates `bytes` of host memory for a batch (pinned memory where the trainer has a GPU). The pointer
/// keeps the memory alive.
using HostAllocator = std::function<std::shared_ptr<void>(size_t bytes)>;

struct LoaderOptions {
  int64_t context = 512;
  int64_t rows = 8;           ///< sequences of a micro-batch
  int64_t micro_batches = 1;  ///< per step and rank
  int64_t rank = 0;
  int64_t world = 1;
  bool packed = false;   ///< documents with cu_seqlens instead of one contiguous stream
  int64_t prefetch = 4;  ///< micro-batches prepared ahead
  uint64_t seed = 0;
  bool shuffle = true;
};

/// Yields the micro-batches of step after step from a background thread. The samples of a step are
/// global indices [position, position + rows * micro_batches * world); which tokens a sample holds depends on
/// (seed, epoch, global sample index) alone, not on the number of ranks: row r of micro-batch m on rank k is
/// sample position + (m * world + k) * rows + r. An epoch has (tokens - 1) / context samples, window w being
/// the tokens [w * context, (w + 1) * context]; samples that do not fill a step at its end are left out.
class Loader {
 public:
  /// The data set must outlive the loader. Throws asplash::Error if it holds fewer samples than one step
  /// needs.
  Loader(const TokenDataset& dataset, const LoaderOptions& options, Position start,
         HostAllocator allocate = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next micro-batch; micro_batches calls make a step. Rethrows what the reading thread met.
  Batch next();

  /// Where a run that stops after the steps handed out so far goes on (call between steps).
  Position position() const;
  int64_t samples_per_epoch() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace asplash::data
