#include "asplash/eval/generation.h"

#include <ATen/ATen.h>

#include <chrono>
#include <memory>

#include "asplash/base/error.h"
#include "asplash/model/language_model.h"

namespace asplash::eval {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The tokens as [1, n] on the device.
at::Tensor to_tensor(const std::vector<int32_t>& tokens, const at::Device& device) {
  const at::Tensor host = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kInt);
  std::copy(tokens.begin(), tokens.end(), host.mutable_data_ptr<int32_t>());
  return host.to(device);
}

/// The first `vocab_size` logits of [1, vocab], on the host.
std::vector<float> to_vector(const at::Tensor& logits, int64_t vocab_size) {
  const at::Tensor host = logits.slice(1, 0, vocab_size).to(at::kCPU, at::kFloat).contiguous();
  const float* data = host.const_data_ptr<float>();
  return {data, data + host.numel()};
}

void check(const std::vector<int32_t>& prompt, const GenerationOptions& options, int64_t model_vocab) {
  if (prompt.empty()) fail("the prompt is empty: nothing to continue");
  for (const int32_t token : prompt)
    if (token < 0 || token >= model_vocab)
      fail("prompt: token id ", token, " is not below the model's vocabulary size (", model_vocab, ")");
  if (options.max_tokens < 1) fail("max-tokens ", options.max_tokens, ": must be at least 1");
  if (options.vocab_size < 0 || options.vocab_size > model_vocab)
    fail("the tokenizer's vocabulary (", options.vocab_size, ") is larger than the model's (", model_vocab,
         ")");
}

}  // namespace

Generation generate(model::LanguageModel& model, const std::vector<int32_t>& prompt,
                    const GenerationOptions& options, const std::function<void(int32_t token)>& on_token) {
  const int64_t model_vocab = model.config().vocab_size;
  check(prompt, options, model_vocab);
  const int64_t vocab_size = options.vocab_size > 0 ? options.vocab_size : model_vocab;
  const at::Device device(options.device);
  const at::NoGradGuard no_grad;
  TokenSampler sampler(options.sampling, options.seed);

  Generation generation;
  auto start = Clock::now();
  const auto state = model.new_decode_state(1, static_cast<int64_t>(prompt.size()) + options.max_tokens);
  std::vector<float> logits = to_vector(model.decode(to_tensor(prompt, device), *state), vocab_size);
  generation.prompt_seconds = seconds_since(start);

  start = Clock::now();
  while (true) {
    const int32_t token = sampler.sample(logits);
    if (token == options.stop_token) {
      generation.stopped = true;
      break;
    }
    generation.tokens.push_back(token);
    on_token(token);
    if (static_cast<int64_t>(generation.tokens.size()) == options.max_tokens) break;
    logits = to_vector(model.decode(to_tensor({token}, device), *state), vocab_size);
  }
  generation.decode_seconds = seconds_since(start);
  return generation;
}

}  // namespace asplash::eval
