#include "asplash/text/encoding_pipeline.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/interrupt.h"

namespace asplash::text {
namespace {

/// Text of a task: enough to make its hand-over cheap, little enough to spread one book over all cores.
constexpr size_t kTaskBytes = 256 << 10;
/// Text that is read but not written yet; a longer document passes alone.
constexpr size_t kBytesInFlight = 32 << 20;

struct Entry {
  EncodingTask task;
  bool encoded = false;
};

/// Tasks in the corpus's order: added by the reader, taken by encoders, removed when written.
class TaskQueue {
 public:
  /// Waits for room. False: the work was stopped.
  bool add(EncodingTask task) {
    std::unique_lock<std::mutex> lock(mutex_);
    room_.wait(lock, [&] { return stopped_ || bytes_ == 0 || bytes_ + task.bytes <= kBytesInFlight; });
    if (stopped_) return false;
    bytes_ += task.bytes;
    entries_.push_back(std::make_shared<Entry>());
    entries_.back()->task = std::move(task);
    waiting_.push_back(entries_.back());
    work_.notify_one();
    return true;
  }
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    work_.notify_all();
    done_.notify_all();
  }
  /// Null: there is nothing more to do.
  std::shared_ptr<Entry> take() {
    std::unique_lock<std::mutex> lock(mutex_);
    work_.wait(lock, [&] { return stopped_ || closed_ || !waiting_.empty(); });
    if (stopped_ || waiting_.empty()) return nullptr;
    auto entry = waiting_.front();
    waiting_.pop_front();
    return entry;
  }
  void finish(Entry& entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entry.encoded = true;
    if (entries_.front().get() == &entry) done_.notify_one();
  }
  /// The next encoded task; null at the end. Throws what a thread met, or that the user interrupted.
  std::shared_ptr<Entry> next() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (error_) std::rethrow_exception(error_);
      if (interrupted()) fail("interrupted: nothing was packed");
      if (entries_.empty() ? closed_ : entries_.front()->encoded) break;
      done_.wait_for(lock, std::chrono::milliseconds(200));
    }
    if (entries_.empty()) return nullptr;
    auto entry = entries_.front();
    entries_.pop_front();
    return entry;
  }
  void release(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_ -= bytes;
    room_.notify_one();
  }
  void stop(std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::move(error);
    stopped_ = true;
    room_.notify_all();
    work_.notify_all();
    done_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable room_, work_, done_;
  std::deque<std::shared_ptr<Entry>> entries_;  // not written yet
  std::deque<std::shared_ptr<Entry>> waiting_;  // of them, not taken yet
  size_t bytes_ = 0;
  bool closed_ = false;
  bool stopped_ = false;
  std::exception_ptr error_;
};

/// The threads of a run; stops and joins them when the run ends, however it ends.
class Threads {
 public:
  explicit Threads(TaskQueue& queue) : queue_(queue) {}
  ~Threads() {
    queue_.stop(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  template <class Work>
  void start(Work work) {
    threads_.emplace_back([this, work = std::move(work)]() mutable {
      try {
        work();
      } catch (...) {
        queue_.stop(std::current_exception());
      }
    });
  }

 private:
  TaskQueue& queue_;
  std::vector<std::thread> threads_;
};

/// Reads the corpus into the queue; returns the number of documents without text.
int64_t read_into(TaskQueue& queue, CorpusReader& reader, const Tokenizer& tokenizer) {
  int64_t empty = 0;
  int64_t number = 0;
  EncodingTask task;
  const auto submit = [&] {
    task.bytes_consumed = reader.bytes_consumed();
    return queue.add(std::exchange(task, {}));
  };
  Document document;
  while (reader.next(document)) {
    if (document.text.empty()) {
      ++empty;
      continue;
    }
    const auto text = std::make_shared<const std::string>(std::move(document.text));
    for (size_t begin = 0; begin < text->size();) {
      const std::string_view rest = std::string_view(*text).substr(begin);
      const size_t wanted = kTaskBytes - task.bytes;
      const size_t length = rest.size() <= wanted ? rest.size() : tokenizer.safe_cut(rest, wanted);
      task.segments.push_back({text, begin, begin + length, number, 0});
      task.bytes += length;
      begin += length;
      if (task.bytes >= kTaskBytes && !submit()) return empty;
    }
    ++number;
  }
  if (task.bytes > 0) submit();
  queue.close();
  return empty;
}

void encode(EncodingTask& task, Encoder& encoder, const EncodingOptions& options) {
  for (Segment& segment : task.segments) {
    if (segment.first() && options.bos_id >= 0) task.ids.push_back(options.bos_id);
    encoder.encode(std::string_view(*segment.text).substr(segment.begin, segment.end - segment.begin),
                   task.ids);
    if (segment.last() && options.eos_id >= 0) task.ids.push_back(options.eos_id);
    segment.ids_end = task.ids.size();
  }
}

}  // namespace

int64_t encode_corpus(CorpusReader& reader, const Tokenizer& tokenizer, const EncodingOptions& options,
                      const std::function<void(const EncodingTask&)>& write) {
  TaskQueue queue;
  int64_t empty = 0;
  {
    Threads threads(queue);
    threads.start([&] { empty = read_into(queue, reader, tokenizer); });
    for (int i = 0; i < options.threads; ++i) {
      threads.start([&, encoder = std::make_shared<Encoder>(tokenizer)] {
        while (const auto entry = queue.take()) {
          encode(entry->task, *encoder, options);
          queue.finish(*entry);
        }
      });
    }
    while (const auto entry = queue.next()) {
      write(entry->task);
      queue.release(entry->task.bytes);
    }
  }
  return empty;
}

}  // namespace asplash::text
