#include "asplash/data/loader.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/data/window_reader.h"

namespace asplash::data {
namespace {

/// Host memory aligned to cache lines, which vector loads and copies to devices like.
std::shared_ptr<void> allocate_aligned(size_t bytes) {
  constexpr size_t kAlignment = 64;
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

void check(const LoaderOptions& o, const Position& start) {
  const auto positive = [](const char* key, int64_t value) {
    if (value < 1) fail("loader: ", key, " must be at least 1, got ", value);
  };
  positive("context", o.context);
  positive("rows", o.rows);
  positive("micro_batches", o.micro_batches);
  positive("world", o.world);
  positive("prefetch", o.prefetch);
  if (o.rank < 0 || o.rank >= o.world) fail("loader: rank must be in [0, ", o.world, "), got ", o.rank);
  if (o.packed && o.rows > std::numeric_limits<int32_t>::max() / o.context)
    fail("loader: rows * context must be below 2^31 in packed mode, got ", o.rows, " * ", o.context);
  if (start.epoch < 0 || start.sample < 0)
    fail("loader: position must not be negative, got epoch ", start.epoch, ", sample ", start.sample);
}

}  // namespace

struct Loader::Impl {
  Impl(const TokenDataset& dataset, const LoaderOptions& o, HostAllocator allocator)
      : options(o),
        step_samples(o.rows * o.micro_batches * o.world),
        sampler(WindowReader::count(dataset, o.context), o.seed, o.shuffle),
        reader(dataset, o.context, o.packed),
        allocate(allocator ? std::move(allocator) : HostAllocator(allocate_aligned)) {}

  /// The step at `position` begins there, or with the next epoch if too few samples are left in this one.
  Position step_begin(Position position) const {
    if (position.sample > sampler.samples() - step_samples) return {position.epoch + 1, 0};
    return position;
  }

  Batch make(const Position& step, int64_t micro_batch) {
    Batch batch;
    batch.rows = options.rows;
    batch.context = options.context;
    batch.position = step;
    const auto bytes = static_cast<size_t>(options.rows * options.context) * sizeof(int32_t);
    batch.tokens = std::static_pointer_cast<int32_t>(allocate(bytes));
    batch.targets = std::static_pointer_cast<int32_t>(allocate(bytes));
    const int64_t first = step.sample + (micro_batch * options.world + options.rank) * options.rows;
    std::vector<int64_t> windows;
    for (int64_t row = 0; row < options.rows; ++row)
      windows.push_back(sampler.window(step.epoch, first + row));
    reader.read(windows, batch);
    return batch;
  }

  /// The thread's work: fills the queue until it is told to stop or meets an error.
  void produce(Position position) {
    try {
      for (;; position.sample += step_samples) {
        position = step_begin(position);
        for (int64_t micro_batch = 0; micro_batch < options.micro_batches; ++micro_batch) {
          {
            std::unique_lock<std::mutex> lock(mutex);
            changed.wait(
                lock, [this] { return stopping || static_cast<int64_t>(queue.size()) < options.prefetch; });
            if (stopping) return;
          }
          Batch batch = make(position, micro_batch);
          const std::lock_guard<std::mutex> lock(mutex);
          queue.push_back(std::move(batch));
          changed.notify_all();
        }
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  Batch take() {
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return !queue.empty() || error; });
    // What was read before the error is still good.
    if (queue.empty()) std::rethrow_exception(error);
    Batch batch = std::move(queue.front());
    queue.pop_front();
    changed.notify_all();
    batch.wait_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    return batch;
  }

  LoaderOptions options;
  int64_t step_samples;
  Sampler sampler;
  WindowReader reader;  // used by the thread alone
  HostAllocator allocate;
  Position handed_out;  // where the step after the last one handed out begins

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> queue;
  std::exception_ptr error;
  bool stopping = false;
  std::thread thread;
};

Loader::Loader(const TokenDataset& dataset, const LoaderOptions& options, Position start,
               HostAllocator allocate) {
  check(options, start);
  impl_ = std::make_unique<Impl>(dataset, options, std::move(allocate));
  if (impl_->sampler.samples() < impl_->step_samples)
    fail(dataset.manifest().path, ": holds ", dataset.tokens(), " tokens, which is ",
         impl_->sampler.samples(), " samples of context ", options.context, "; one step needs ",
         impl_->step_samples, " (", options.rows, " rows * ", options.micro_batches, " micro-batches * ",
         options.world, " ranks): use more data, a shorter context or a smaller batch");
  impl_->handed_out = start;
  impl_->thread = std::thread([impl = impl_.get(), start] { impl->produce(start); });
}

Loader::~Loader() {
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stopping = true;
    impl_->changed.notify_all();
  }
  impl_->thread.join();
}

Batch Loader::next() {
  Batch batch = impl_->take();
  impl_->handed_out = {batch.position.epoch, batch.position.sample + impl_->step_samples};
  return batch;
}

Position Loader::position() const { return impl_->handed_out; }

int64_t Loader::samples_per_epoch() const { return impl_->sampler.samples(); }

}  // namespace asplash::data
