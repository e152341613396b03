#include "asplash/eval/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "asplash/base/error.h"
#include "asplash/base/progress.h"
#include "asplash/base/text.h"
#include "asplash/data/loader.h"
#include "asplash/eval/loss_sum.h"
#include "asplash/eval/windows.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {
namespace {

/// Sums over the scored targets of one context length.
class Totals {
 public:
  explicit Totals(int64_t context) : context_(context) {
    for (int64_t first = 0; first < context;) {
      const int64_t last = std::min(context, first == 0 ? 1 : 2 * first);
      buckets_.push_back({first, last, 0, 0.0});
      first = last;
    }
    sums_.resize(buckets_.size());
  }

  /// Positions [begin, end) of the window, from whose first one on positions count: the whole window, or a
  /// document's part of it.
  void add(const Window& window, int64_t begin, int64_t end, const float* losses, const int32_t* targets,
           const std::vector<int32_t>& bytes_of_token) {
    for (size_t i = 0; i < buckets_.size(); ++i) {
      PositionBucket& bucket = buckets_[i];
      const int64_t last = std::min(begin + bucket.last, end);
      for (int64_t p = begin + bucket.first; p < last; ++p) {
        if (targets[p] == data::kIgnoredTarget) continue;
        if (!LossSum::takes(losses[p]))
          fail("context ", context_, ": the loss of token ", window.begin + p + 1, " is ", losses[p],
               "; the model's weights are damaged or overflow in this precision (try --precision fp32)");
        sums_[i].add(losses[p]);
        bytes_ += bytes_of_token[static_cast<size_t>(targets[p])];
        ++bucket.target_tokens;
      }
    }
  }

  ContextResult result() const {
    ContextResult r;
    r.context = context_;
    r.target_bytes = bytes_;
    LossSum sum;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      const PositionBucket& bucket = buckets_[i];
      if (bucket.target_tokens == 0) continue;  // no document is that long
      sum.add(sums_[i]);
      r.target_tokens += bucket.target_tokens;
      r.by_position.push_back(bucket);
      r.by_position.back().loss = sums_[i].value() / static_cast<double>(bucket.target_tokens);
    }
    if (r.target_tokens == 0) fail("context ", context_, ": no document has a second token to predict");
    r.loss = sum.value() / static_cast<double>(r.target_tokens);
    r.perplexity = std::exp(r.loss);
    if (bytes_ > 0) r.bits_per_byte = sum.value() / std::log(2.0) / static_cast<double>(bytes_);
    return r;
  }

 private:
  int64_t context_;
  int64_t bytes_ = 0;
  std::vector<PositionBucket> buckets_;
  std::vector<LossSum> sums_;  ///< of each bucket
};

/// Windows of equal length that the model has been given; its losses may still be in the making.
struct Batch {
  std::vector<Window> windows;
  at::Tensor targets;  // [rows, length] int32 on the host; kIgnoredTarget where nothing is scored
  at::Tensor losses;   // [rows, length] fp32 on the device
  std::vector<int32_t> boundaries;  // packed: of documents over all rows * length tokens, as data::Batch's
};

class Evaluation {
 public:
  Evaluation(model::LanguageModel& model, const TokenStream& stream,
             const std::vector<int32_t>& bytes_of_token, const PerplexityOptions& options, int64_t targets)
      : model_(model),
        stream_(stream),
        bytes_of_token_(bytes_of_token),
        options_(options),
        device_(options.device),
        targets_(targets) {}

  ContextResult run(int64_t context) {
    const EvaluationWindows windows(targets_, context, options_.stride);
    const int64_t rows = std::max<int64_t>(1, options_.tokens_per_batch / context);
    std::unique_ptr<Progress> progress;
    if (options_.show_progress)
      progress = std::make_unique<Progress>(
          Progress::Options{str("context ", context), "tokens", static_cast<double>(windows.input_tokens())});
    if (device_.is_cuda())
      launch(windows, 0, rows).losses.cpu();  // loads kernels, fills the allocator: not timed

    Totals totals(context);
    const auto start = std::chrono::steady_clock::now();
    std::optional<Batch> pending;
    int64_t done = 0;
    for (int64_t first = 0; first < windows.size();) {
      // While the device works on this batch, the one before it is summed.
      Batch batch = launch(windows, first, rows);
      if (pending) collect(*pending, totals);
      first += static_cast<int64_t>(batch.windows.size());
      done += batch.losses.numel();
      pending = std::move(batch);
      if (progress) progress->update(static_cast<double>(done));
    }
    collect(*pending, totals);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;

    ContextResult result = totals.result();
    result.beyond_trained = options_.trained_context > 0 && context > options_.trained_context;
    result.tokens_per_second = static_cast<double>(windows.input_tokens()) / std::max(elapsed.count(), 1e-9);
    if (progress) progress->finish("perplexity " + fixed(result.perplexity, 2));
    return result;
  }

 private:
  /// Hands the model windows [first, first + rows), as far as they exist and are as long as the first one.
  Batch launch(const EvaluationWindows& windows, int64_t first, int64_t rows) {
    Batch batch;
    for (int64_t i = first; i < std::min(windows.size(), first + rows); ++i) {
      if (windows[i].length != windows[first].length) break;
      batch.windows.push_back(windows[i]);
    }
    const auto count = static_cast<int64_t>(batch.windows.size());
    const int64_t length = windows[first].length;
    const at::Tensor inputs = at::empty({count, length}, at::kInt);
    batch.targets = at::empty({count, length}, at::kInt);
    buffer_.resize(static_cast<size_t>(length) + 1);
    for (int64_t row = 0; row < count; ++row) {
      const Window& window = batch.windows[static_cast<size_t>(row)];
      stream_.read(window.begin, length + 1, buffer_.data());
      std::copy_n(buffer_.data(), length, inputs.mutable_data_ptr<int32_t>() + row * length);
      int32_t* targets = batch.targets.mutable_data_ptr<int32_t>() + row * length;
      std::copy_n(buffer_.data() + 1, length, targets);
      std::fill_n(targets, window.first_scored, data::kIgnoredTarget);
      if (options_.packed) cut_at_documents(window, row, targets, batch.boundaries);
    }
    model::ModelInput input;
    input.tokens = inputs.to(device_);
    if (options_.packed) batch.boundaries.push_back(static_cast<int32_t>(count * length));
    input.cu_seqlens = batch.boundaries;
    batch.losses = model_.token_losses(input, batch.targets.to(device_));
    return batch;
  }

  /// As in training on packed documents: the window begins with a boundary of its own, and the token before a
  /// document's first one must not predict it.
  void cut_at_documents(const Window& window, int64_t row, int32_t* targets,
                        std::vector<int32_t>& boundaries) const {
    const int64_t row_begin = row * window.length;
    boundaries.push_back(static_cast<int32_t>(row_begin));
    const int64_t end = window.begin + window.length;
    for (const int64_t begin : stream_.document_begins(window.begin + 1, end + 1)) {
      targets[begin - 1 - window.begin] = data::kIgnoredTarget;
      if (begin < end) boundaries.push_back(static_cast<int32_t>(row_begin + begin - window.begin));
    }
  }

  void collect(const Batch& batch, Totals& totals) {
    const at::Tensor losses = batch.losses.to(at::kCPU, at::kFloat).contiguous();
    const int64_t length = losses.size(1);
    auto boundary = batch.boundaries.begin();
    for (size_t row = 0; row < batch.windows.size(); ++row) {
      const auto offset = static_cast<int64_t>(row) * length;
      const auto add = [&](int64_t begin, int64_t end) {
        totals.add(batch.windows[row], begin, end, losses.const_data_ptr<float>() + offset,
                   batch.targets.const_data_ptr<int32_t>() + offset, bytes_of_token_);
      };
      if (!options_.packed) {
        add(0, length);
        continue;
      }
      for (; *boundary < offset + length; ++boundary) add(*boundary - offset, *(boundary + 1) - offset);
    }
  }

  model::LanguageModel& model_;
  const TokenStream& stream_;
  const std::vector<int32_t>& bytes_of_token_;
  const PerplexityOptions& options_;
  at::Device device_;
  int64_t targets_;
  std::vector<int32_t> buffer_;
};

std::vector<int64_t> sorted_unique(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

}  // namespace

int64_t target_count(int64_t stream_tokens, int64_t max_targets) {
  const int64_t all = std::max<int64_t>(0, stream_tokens - 1);
  return max_targets > 0 ? std::min(all, max_targets) : all;
}

std::vector<ContextResult> perplexity_by_context(model::LanguageModel& model, const TokenStream& stream,
                                                 const std::vector<int32_t>& bytes_of_token,
                                                 const PerplexityOptions& options) {
  if (options.contexts.empty()) fail("no context lengths to evaluate at");
  if (stream.vocab_size > model.config().vocab_size)
    fail("the data's vocabulary (", stream.vocab_size, ") is larger than the model's (",
         model.config().vocab_size, ")");
  if (static_cast<int64_t>(bytes_of_token.size()) < stream.vocab_size)
    fail("text lengths of ", bytes_of_token.size(), " tokens given, the vocabulary has ", stream.vocab_size);
  const int64_t targets = target_count(stream.tokens, options.max_targets);
  const std::vector<int64_t> contexts = sorted_unique(options.contexts);
  // Every context is checked before the first one is evaluated, which may take long.
  for (const int64_t context : contexts) EvaluationWindows(targets, context, options.stride);

  const at::NoGradGuard no_grad;
  Evaluation evaluation(model, stream, bytes_of_token, options, targets);
  std::vector<ContextResult> results;
  for (const int64_t context : contexts) results.push_back(evaluation.run(context));
  return results;
}

double unigram_perplexity(const TokenStream& stream, int64_t targets, bool packed) {
  constexpr int64_t kChunk = 1 << 16;
  std::vector<int64_t> counts(static_cast<size_t>(stream.vocab_size), 0);
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(kChunk, targets)));
  for (int64_t done = 0; done < targets; done += kChunk) {
    const int64_t count = std::min(kChunk, targets - done);
    stream.read(1 + done, count, tokens.data());
    for (int64_t i = 0; i < count; ++i) ++counts[static_cast<size_t>(tokens[static_cast<size_t>(i)])];
    if (!packed) continue;
    for (const int64_t begin : stream.document_begins(1 + done, 1 + done + count))
      --counts[static_cast<size_t>(tokens[static_cast<size_t>(begin - 1 - done)])];
  }
  targets = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  double entropy = 0;
  for (const int64_t count : counts) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / static_cast<double>(targets);
    entropy -= share * std::log(share);
  }
  return std::exp(entropy);
}

}  // namespace asplash::eval
