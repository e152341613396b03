#include "asplash/eval/continue_text.h"

#include <c10/core/ScalarType.h>

#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/eval/inference.h"
#include "asplash/eval/text_stream.h"
#include "asplash/text/tokenizer.h"

namespace asplash::eval {
namespace {

uint64_t random_seed() {
  std::random_device device;
  return device();  // 32 bits: short enough to type again
}

/// The prompt as a training document begins: bos first, where training documents had one.
std::vector<int32_t> encode_prompt(const ContinueTextOptions& options, const text::Tokenizer& tokenizer,
                                   const checkpoint::LoadedModel& loaded) {
  if (!is_valid_utf8(options.prompt)) fail("the prompt is not valid UTF-8");
  std::vector<int32_t> tokens;
  if (loaded.bos_id >= 0) tokens.push_back(static_cast<int32_t>(loaded.bos_id));
  for (const int32_t id : tokenizer.encode(options.prompt)) tokens.push_back(id);
  if (tokens.empty())
    fail("the prompt is empty, and the model knows no token that begins a text: give a prompt");
  return tokens;
}

void warn_beyond_trained(int64_t prompt, int64_t most, int64_t trained) {
  if (trained <= 0 || most <= trained) return;
  if (prompt > trained) {
    log::warning(str("the prompt has ", prompt, " tokens, more than the context of ", trained,
                     " that the model was trained at"));
  } else {
    log::warning(str("prompt and continuation may reach ", most, " tokens, more than the context of ",
                     trained, " that the model was trained at"));
  }
}

/// Room for keys and values is taken at the start.
void check_memory(const Inference& inference, const model::ModelConfig& given, int64_t most) {
  const model::ModelConfig config = given.resolved();
  const double bytes = 2.0 * static_cast<double>(config.layers) * static_cast<double>(config.kv_heads) *
                       static_cast<double>(config.head_dim) * static_cast<double>(most) *
                       static_cast<double>(c10::elementSize(inference.compute_type));
  const auto memory = static_cast<double>(inference.device.memory_bytes);
  if (memory == 0 || bytes <= memory) return;
  fail("max-tokens: keys and values of ", grouped(most), " tokens take ", human_bytes(bytes), ", ",
       inference.device.name, " has ", human_bytes(memory));
}

std::string summary(const Generation& g, size_t prompt_tokens, uint64_t seed) {
  const auto rate = [](size_t tokens, double seconds) {
    return fixed(static_cast<double>(tokens) / std::max(seconds, 1e-9), 1);
  };
  std::string text = str(prompt_tokens, " prompt tokens in ", fixed(g.prompt_seconds, 2), " s, ",
                         g.tokens.size(), " tokens in ", fixed(g.decode_seconds, 2), " s (",
                         rate(g.tokens.size(), g.decode_seconds), " tokens/s), seed ", seed);
  return g.stopped ? text + ", ended by the model" : text;
}

}  // namespace

void continue_text(const ContinueTextOptions& options, std::ostream& out) {
  const uint64_t seed = options.seed ? *options.seed : random_seed();
  TokenSampler(options.sampling, seed);  // refuses bad options before the model is loaded
  const Inference inference = choose_inference(options.device, options.precision, options.threads);
  const checkpoint::LoadedModel loaded =
      checkpoint::load_model(options.checkpoint, inference.device.name, inference.compute_type);
  const auto tokenizer = text::Tokenizer::load(loaded.tokenizer_file);
  if (tokenizer.vocab_size() > loaded.model->config().vocab_size)
    fail(loaded.tokenizer_file, ": its ", tokenizer.vocab_size(),
         " pieces are more than the model's vocabulary of ", loaded.model->config().vocab_size);
  const std::vector<int32_t> prompt = encode_prompt(options, tokenizer, loaded);
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  if (options.max_tokens > std::numeric_limits<int64_t>::max() - prompt_tokens)
    fail("max-tokens ", options.max_tokens, ": is beyond any text");
  check_memory(inference, loaded.model->config(), prompt_tokens + options.max_tokens);
  warn_beyond_trained(prompt_tokens, prompt_tokens + options.max_tokens, loaded.trained_context);

  GenerationOptions generation;
  generation.max_tokens = options.max_tokens;
  generation.sampling = options.sampling;
  generation.seed = seed;
  generation.stop_token = options.stop_at_eos ? static_cast<int32_t>(loaded.eos_id) : -1;
  generation.vocab_size = tokenizer.vocab_size();
  generation.device = inference.device.name;

  // The prompt goes through the stream, too, so that its last character and the first new one join.
  TextStream stream(tokenizer);
  std::string prompt_text;
  for (const int32_t token : prompt) prompt_text += stream.push(token);
  const auto write = [&out](const std::string& text) {
    out << text << std::flush;
    if (!out) fail("cannot write the text: the output is closed or full");
  };
  if (options.print_prompt) write(prompt_text);
  const Generation result =
      generate(*loaded.model, prompt, generation, [&](int32_t token) { write(stream.push(token)); });
  write(stream.finish() + "\n");
  log::info(summary(result, prompt.size(), seed));
}

}  // namespace asplash::eval
