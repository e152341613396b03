#include "asplash/eval/evaluate.h"

#include <algorithm>

#include "asplash/base/error.h"
#include "asplash/base/log.h"
#include "asplash/base/text.h"
#include "asplash/checkpoint/model_loading.h"
#include "asplash/eval/data_match.h"
#include "asplash/eval/first_logits.h"
#include "asplash/eval/inference.h"
#include "asplash/eval/token_bytes.h"
#include "asplash/eval/windows.h"
#include "asplash/text/tokenizer.h"

namespace asplash::eval {
namespace {

void check(const EvaluateOptions& options, const data::TokenDataset& dataset) {
  if (options.contexts.empty()) fail("no context lengths to evaluate at");
  check_documents(options.documents);
  if (options.max_tokens < 0) fail("max-tokens ", options.max_tokens, ": must be at least 1, or 0 for all");
  if (options.tokens_per_batch < 1) fail("batch-tokens ", options.tokens_per_batch, ": must be at least 1");
  const int64_t targets = target_count(dataset.tokens(), options.max_tokens);
  std::vector<int64_t> contexts = options.contexts;
  std::sort(contexts.begin(), contexts.end());
  for (const int64_t context : contexts) EvaluationWindows(targets, context, options.stride);
}

/// Everything but the measurements.
EvaluationReport describe(const EvaluateOptions& options, const Inference& inference,
                          const data::TokenDataset& dataset, const checkpoint::LoadedModel& loaded) {
  const model::ModelConfig& config = loaded.model->config();
  const bool entmax = config.attention.function == model::AttentionFunction::entmax;
  EvaluationReport report;
  report.checkpoint = loaded.path;
  report.step = loaded.state.step;
  report.attention = model::name_of(config.attention.function);
  report.alpha = entmax ? config.attention.alpha : 1.0;
  report.positions = model::name_of(config.positions.kind);
  report.parameters = model::parameter_count(config);
  report.trained_context = loaded.trained_context;
  report.dataset = dataset.manifest().path;
  report.split = dataset.manifest().split;
  report.tokenizer_hash = loaded.tokenizer_hash;
  report.packed = options.documents.empty() ? loaded.packed_documents : options.documents == "packed";
  report.stride = options.stride;
  report.device = inference.device.description;
  report.precision = inference.precision;
  return report;
}

}  // namespace

EvaluationReport evaluate(const EvaluateOptions& options) {
  const Inference inference = choose_inference(options.device, options.precision, options.threads);
  const auto dataset = data::TokenDataset::open(options.data);
  check(options, dataset);
  const checkpoint::Reader reader(options.checkpoint);
  check_tokenizer(options.data, dataset.manifest(), reader);
  const auto loaded = checkpoint::load_model(reader, inference.device.name, inference.compute_type);
  EvaluationReport report = describe(options, inference, dataset, loaded);
  log::info(str("evaluating ", report.checkpoint, ", ", human_count(static_cast<double>(report.parameters)),
                " parameters, on ", report.device, " (", inference.device.name, ", ", report.precision, ")"));

  PerplexityOptions perplexity;
  perplexity.contexts = options.contexts;
  perplexity.trained_context = loaded.trained_context;
  perplexity.max_targets = options.max_tokens;
  perplexity.stride = options.stride;
  perplexity.packed = report.packed;
  perplexity.tokens_per_batch = options.tokens_per_batch;
  perplexity.device = inference.device.name;
  perplexity.show_progress = true;
  const auto tokenizer = text::Tokenizer::load(loaded.tokenizer_file);
  const TokenStream stream = stream_of(dataset);
  if (!options.logits_file.empty())
    write_first_logits(options.logits_file, *loaded.model, stream, perplexity);
  const int64_t targets = target_count(dataset.tokens(), options.max_tokens);
  report.unigram_perplexity = unigram_perplexity(stream, targets, report.packed);
  report.results = perplexity_by_context(*loaded.model, stream, bytes_of_token(tokenizer), perplexity);
  report.target_tokens = report.results.front().target_tokens;
  return report;
}

}  // namespace asplash::eval
